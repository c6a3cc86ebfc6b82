"""When the watch repairs and when not: a table of states, each looked at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from tests.unit.watchbox import MODEL, NOW, SIZE, SOUND, Box, ps, units

Change = Callable[[Box], None]


def files(**texts: str | None) -> Change:
    """Files of the host by their names below the root ("__" is a slash); None takes one away."""

    def change(box: Box) -> None:
        for name, text in texts.items():
            path = name.replace("__", "/")
            if text is None:
                box.gone(path)
            else:
                box.write(path, text)

    return change


def nothing(box: Box) -> None:
    """As it is."""


def lease(until: str) -> Change:
    return lambda box: box.write(
        "var/lib/r1fleet/lease.json",
        f'{{"schema": 1, "run": "r1", "since": "2026-01-01T00:00:00+00:00", "until": "{until}"}}\n',
    )


# What each axis of the table can be; the last word is whether a repair is right there.
MODELS: dict[str, tuple[Change, bool]] = {
    "on the CPU": (files(ps=ps((MODEL, 0))), True),
    "on the CPU by its alias": (files(ps=ps(("deepseek-r1:fleet", 0))), True),
    "wholly on its GPU": (nothing, False),
    "in part on the CPU": (files(ps=ps((MODEL, SIZE // 2))), False),
    "not loaded": (files(ps=ps()), False),
    "another one on the CPU": (files(ps=ps(("mistral:7b", 0))), False),
    "no answer": (files(ps=None), False),
}
DRIVERS: dict[str, tuple[Change, bool]] = {
    "sound": (nothing, True),
    "lost card": (files(smi="No devices were found\n", **{"smi.rc": "6\n"}), False),
    "hangs after its rows": (files(smi=SOUND, **{"smi.rc": "124\n"}), False),
    "a lost card beside all rows": (files(smi=SOUND, **{"smi.rc": "15\n"}), False),
    "mismatch": (files(sys__module__nvidia__version="580.178.04\n"), False),
    "not loaded": (files(sys__module__nvidia__version=None), False),
}
AT = "0 0 127.0.0.1:11434 127.0.0.1:5000 "  # a connection, as ss shows it
IDLE_KEPT = AT + "bytes_sent:999 bytes_received:9 lastsnd:90000 lastrcv:90040\n"
CHECKED = AT + "bytes_sent:999 bytes_received:9 lastsnd:300 lastrcv:302\n"
WAITING = AT + "bytes_sent:999 bytes_received:9 lastsnd:70000 lastrcv:4000\n"
FIRST_ASKED = AT + "bytes_received:9 lastsnd:4500 lastrcv:4500\n"
TOLD_TO_GO_ON = AT + "bytes_sent:25 bytes_received:152 lastsnd:996 lastrcv:996\n"
STREAMING = AT + "bytes_sent:999 bytes_received:9 lastsnd:40 lastrcv:8000\n"
ACTS: dict[str, tuple[Change, bool]] = {
    "idle": (nothing, True),
    "idle, connections kept": (files(connections=IDLE_KEPT + CHECKED), True),
    "a slot at work": (files(slots='[{"id":0,"is_processing":true}]\n'), False),
    "slots cannot tell": (files(slots='{"error":{"code":503,"message":"Loading"}}\n'), False),
    "slots do not answer": (files(slots="\n"), False),
    "a request waits": (files(connections=IDLE_KEPT + WAITING), False),
    "a first request waits": (files(connections=FIRST_ASKED), False),
    "a body is awaited": (files(connections=TOLD_TO_GO_ON), False),
    "an answer goes out": (files(connections=STREAMING), False),
    "it computes": (lambda box: box.ticks(170, "stat.later"), False),
}
HOLDS: dict[str, tuple[Change, bool]] = {
    "none": (nothing, True),
    "a lease that is over": (lease("2027-01-15T07:59:00+00:00"), True),
    "a lease": (lease("2027-01-15T09:30:00+00:00"), False),
    "a damaged lease": (files(**{"var/lib/r1fleet/lease.json": '{"schema": 1, "until'}), False),
    "draining": (files(run__r1fleet__draining=""), False),
    "refusing": (files(run__r1fleet__refusing=""), False),
    "drained before a boot": (files(var__lib__r1fleet__draining=""), False),
    "a restart is due": (files(run__r1fleet__restart=""), False),
    "maintenance": (files(var__lib__r1fleet__maintenance=""), False),
    "a pull": (files(units=units(pull="active")), False),
    "an installation": (files(units=units(engine="active", tools="activating")), False),
    "a preload": (files(units=units(preload="activating")), False),
    "the engine starts": (files(units=units("activating")), False),
    "the engine is stopped": (files(units=units("inactive", "inactive"), ps=None), False),
}
LIMITS: dict[str, tuple[str, bool]] = {
    "none yet": ("", True),
    "yesterday": (f"{NOW - 90000} {NOW - 89000} {NOW - 88000}", True),
    "a moment ago": (f"{NOW - 300}", False),
    "three today": (f"{NOW - 80000} {NOW - 40000} {NOW - 4000}", False),
}


def table() -> list[tuple[str, str, str, str, str]]:
    """A model on the CPU under all that can keep the watch from it: each driver, act and hold
    together, each limit with each act and hold. And each other model with one thing beside it."""
    first, *others = MODELS
    sound, no_limit = next(iter(DRIVERS)), next(iter(LIMITS))
    states = list(product(DRIVERS, ACTS, HOLDS, LIMITS))
    usual = tuple(next(iter(axis)) for axis in (DRIVERS, ACTS, HOLDS, LIMITS))
    alone = [row for row in states if sum(map(str.__ne__, row, usual)) <= 1]
    return [
        *((first, *row) for row in states if row[0] == sound or row[3] == no_limit),
        *((model, *row) for model in others for row in alone),
    ]


def is_right(model: str, driver: str, act: str, hold: str, limit: str) -> bool:
    axes = (MODELS[model], DRIVERS[driver], ACTS[act], HOLDS[hold], LIMITS[limit])
    return all(word[1] for word in axes)


def play(box: Box, row: tuple[str, str, str, str, str]) -> int:
    """Repairs in one look at a host of this state."""
    model, driver, act, hold, limit = row
    box.healthy()
    box.now = NOW
    for change in (MODELS[model][0], DRIVERS[driver][0], ACTS[act][0], HOLDS[hold][0]):
        change(box)
    box.remember(repairs=LIMITS[limit][0], told="none", since=NOW - 60)
    box.look(0)
    return box.repairs


def test_no_state_of_the_table_has_a_false_repair_or_lacks_a_right_one(tmp_path: Path) -> None:
    rows = table()
    assert len(rows) >= 1000
    lanes = [rows[lane::4] for lane in range(4)]

    def run(lane: int) -> list[tuple[tuple[str, str, str, str, str], int]]:
        box = Box(tmp_path / str(lane))
        return [(row, play(box, row)) for row in lanes[lane]]

    with ThreadPoolExecutor(4) as pool:
        found = [pair for part in pool.map(run, range(4)) for pair in part]
    right = [row for row, _ in found if is_right(*row)]
    wrong = [(row, done) for row, done in found if done != int(is_right(*row))]
    print(f"\n{len(found)} looks, {len(right)} right repairs, {len(wrong)} wrong answers")
    assert wrong == []
    assert right
