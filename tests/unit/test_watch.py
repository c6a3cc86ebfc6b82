"""The watch: when it repairs and when not, by a table of states; whom it tells, and how often."""

import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path

import pytest

from r1fleet.watch.wanted import script
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


def on_the_cpu(box: Box) -> None:
    box.write("ps", ps((MODEL, 0)))
    box.write("ps.after", ps((MODEL, SIZE)))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def lost(box: Box) -> None:
    box.write("smi", "No devices were found\n")
    box.write("smi.rc", "6\n")


def test_a_gpu_that_goes_and_comes_back_is_told_twice_and_mended_once(box: Box) -> None:
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]
    assert box.look() == []
    lost(box)
    on_the_cpu(box)
    (line,) = box.look()
    assert line == f"<4>failing: 0 of 1 GPUs are listed; {MODEL} is on the CPU"
    assert [box.look() for _ in range(5)] == [[]] * 5
    assert box.repairs == 0
    box.write("smi", SOUND)
    box.write("smi.rc", "0\n")
    begun, done = box.look()
    assert begun.startswith(f"<5>repairs: {MODEL} is on the CPU, and the GPU is sound")
    assert done == f"<5>well: mended in 0 s, {MODEL} is served as planned"
    assert box.read("deeds").splitlines() == [
        "--no-block restart ollama.service",
        "start r1fleet-preload.service",
    ]
    assert box.look() == []
    assert box.state["mended"] == "1"


def test_what_a_restart_does_not_mend_is_tried_three_times_a_day_and_no_more(box: Box) -> None:
    box.write("ps", ps((MODEL, 0)))
    lines = [line for _ in range(40) for line in box.look(300)]
    assert box.repairs == 3
    stamps = [int(stamp) for stamp in box.state["repairs"].split()]
    assert min(b - a for a, b in pairwise(stamps)) >= 600
    assert [line for line in lines if "no more repairs today, 3 are the limit" in line]
    assert len(lines) <= 6  # three that begin, one that it failed, one that it gives up
    assert (box.state["mended"], box.state["unmended"]) == ("0", "3")
    box.look(86400)
    assert box.repairs == 4


def test_the_setting_for_none_a_day_repairs_nothing(box: Box) -> None:
    box.settings["repairs_per_day"] = 0
    on_the_cpu(box)
    box.look()
    assert box.repairs == 0


def test_a_run_that_has_the_lock_of_the_lease_comes_first(box: Box) -> None:
    on_the_cpu(box)
    lock = box.root / "run/r1fleet/lease.lock"
    lock.touch()
    with subprocess.Popen(
        ["flock", lock, "sh", "-c", "echo held; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == b"held\n"
        box.look()
        assert box.repairs == 0
        holder.stdin.close()
    box.look()
    assert box.repairs == 1


def test_without_a_memory_nothing_is_repaired(box: Box) -> None:
    """A full disk: what cannot be counted has no limit."""
    on_the_cpu(box)
    (box.root / "var/lib/r1fleet/watch/state.new").mkdir()
    with pytest.raises(AssertionError):  # the shell complains
        box.look()
    assert box.repairs == 0


@pytest.mark.parametrize("there", [True, False])
def test_without_ss_any_connection_to_the_engine_is_a_request(box: Box, there: bool) -> None:
    """2CAA is port 11434; 01 is an open connection, 0A a port that is listened on."""
    box.write("no-ss", "")
    state = "01" if there else "0A"
    box.write(
        "proc/net/tcp",
        "  sl  local_address rem_address   st\n"
        f"   0: 0100007F:2CAA 0100007F:C350 {state} 00000000:00000000\n"
        "   1: 0100007F:C350 0100007F:2CAA 01 00000000:00000000\n",
    )
    on_the_cpu(box)
    box.look()
    assert box.repairs == int(not there)


def test_while_somebody_is_at_work_nothing_is_told_and_after_it_what_is_left(box: Box) -> None:
    box.look()
    HOLDS["a lease"][0](box)
    box.write("ps", ps((MODEL, 0)))
    assert box.look() == []
    box.gone("var/lib/r1fleet/lease.json")
    assert box.look()[0].startswith("<5>repairs")


@pytest.mark.parametrize("hold", ["a lease", "maintenance", "an installation"])
def test_while_somebody_is_at_work_the_cards_are_not_touched(box: Box, hold: str) -> None:
    """A device that is open keeps the driver's module in the kernel, and a run may change it."""
    box.write("bin/nvidia-smi", '#!/bin/sh\necho x >>"$ROOT/smi.log"\necho "GPU 0: T4"\n')
    HOLDS[hold][0](box)
    box.look()
    assert box.read("smi.log") == ""
    assert "r1fleet_gpus " not in box.read("collector/r1fleet.prom")
    box.healthy()
    box.look()
    assert box.read("smi.log") == "x\n"


def test_a_load_is_no_news_until_it_takes_too_long(box: Box) -> None:
    """A unit that waits for a GPU that is gone is always starting."""
    box.look()
    box.gone("ps")
    box.write("units", units("activating", "inactive"))
    assert [box.look(60) for _ in range(8)] == [[]] * 8
    assert box.look(60) == ["<4>failing: ollama.service has been activating for 480 s"]


def test_other_clients_models_are_no_fault_and_an_empty_engine_is_one(box: Box) -> None:
    box.look()
    box.write("ps", ps(("mistral:7b", SIZE)))
    assert box.look() == []
    box.write("ps", ps(("all-minilm:latest", SIZE)))  # ours too, and no reason for it
    assert box.look() == [f"<4>failing: {MODEL} is not loaded"]
    box.write("ps", ps())
    assert box.look() == []
    box.settings["for_ever"] = ""
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]


def test_a_plan_for_the_cpu_is_as_planned(box: Box) -> None:
    box.settings |= {"placement": "cpu", "gpu_kind": "none", "gpus": 0}
    box.write("ps", ps((MODEL, 0)))
    lost(box)
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]
    assert box.repairs == 0


def test_one_token_is_asked_for_every_so_often_and_only_of_an_idle_engine(box: Box) -> None:
    box.settings["ask_every_s"] = 900
    ACTS["a slot at work"][0](box)
    box.look()
    assert box.read("asked") == ""
    box.write("slots", '[{"id":0,"is_processing":false}]\n')
    for _ in range(31):
        box.look()
    assert box.read("asked") == "asked\n" * 2
    box.write("said", "\n")
    lines = [line for _ in range(40) for line in box.look()]
    assert lines == [f"<4>failing: {MODEL} does not answer (HTTP )"]
    box.write("said", '{"done":true}\n')
    assert [line for _ in range(4) for line in box.look()] == [
        f"<5>well: {MODEL} is served as planned"
    ]
    assert box.repairs == 0


XID = "[{0:>6}.000001] NVRM: Xid (PCI:0000:01:00): {1}, pid=7, name=llama-server\n"


def test_xids_are_counted_once_and_those_of_a_gpu_are_told(box: Box) -> None:
    box.write("dmesg", XID.format(10, 79))
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]  # from before the watch
    box.write("dmesg", XID.format(10, 79) + XID.format(200, 31) + "[  201.5] other line\n")
    assert box.look() == []
    with (box.root / "dmesg").open("a") as log:
        log.write(XID.format(300, 48))
    assert box.look() == ["<4>failing: Xid 48 of PCI:0000:01:00 in the kernel's log"]
    assert box.look() == []
    assert (box.state["xid_app"], box.state["xid_gpu"]) == ("1", "1")
    assert box.look(700) == [f"<5>well: {MODEL} is served as planned"]
    box.write("proc/sys/kernel/random/boot_id", "b2\n")
    box.write("dmesg", XID.format(5, 79))
    box.look()
    assert box.state["xid_gpu"] == "2"


def test_a_disk_that_fills_is_told(box: Box) -> None:
    box.look()
    box.write("free", f"{5119 * 1024}\n")
    assert box.look() == ["<4>failing: 5119 MiB are free for /models"]


def test_the_hook_is_called_for_each_change_under_an_account_without_rights(box: Box) -> None:
    box.settings["hook"] = "/usr/local/bin/tell"
    box.look()
    assert box.read("hook") == ""  # that all is well at first is no news
    lost(box)
    box.look()
    box.look()
    words = box.read("hook").splitlines()
    assert words[-3:] == ["/usr/local/bin/tell", "failing", "0 of 1 GPUs are listed"]
    assert {"DynamicUser=yes", "RuntimeMaxSec=60"} < set(words)
    assert "--setenv=R1FLEET_FAULTS=gpus" in words
    assert words.count("failing") == 1
    box.write("bin/systemd-run", "#!/bin/sh\nexit 1\n")
    box.healthy()
    box.look()
    assert box.state["hooks_failed"] == "1"


def test_what_is_remembered_is_written_only_when_it_changes(box: Box) -> None:
    box.look()
    state = box.root / "var/lib/r1fleet/watch/state"
    before = state.stat().st_mtime_ns, state.stat().st_ino
    box.look()
    assert (state.stat().st_mtime_ns, state.stat().st_ino) == before


@pytest.mark.parametrize(
    "text",
    ["", "faults=$(reboot)\n", "repairs=x y\nmended=-1\n", "\0\n", "since=" + "9" * 40 + "\n"],
)
def test_a_damaged_memory_is_none(box: Box, text: str) -> None:
    box.write("var/lib/r1fleet/watch/state", text)
    assert box.look() == [f"<5>well: {MODEL} is served as planned"]
    assert box.state["mended"] == "0"


LINE = re.compile(r'(r1fleet_[a-z_]+)(\{[a-z]+="[^"\\]*"\})? (\d+(\.\d+)?)')


def test_the_metrics_are_a_whole_file_of_the_exposition_format(box: Box) -> None:
    on_the_cpu(box)
    box.look()
    metrics = box.root / "collector/r1fleet.prom"
    assert [path.name for path in metrics.parent.iterdir()] == ["r1fleet.prom"]
    assert metrics.stat().st_mode & 0o777 == 0o644
    kinds: dict[str, str] = {}
    values: dict[str, float] = {}
    lines = metrics.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            assert lines[number + 1].startswith(f"# TYPE {line.split()[2]} ")
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
        else:
            match = LINE.fullmatch(line)
            assert match, line
            assert match[1] == list(kinds)[-1]  # each below its own head
            values[match[1] + (match[2] or "")] = float(match[3])
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        name for name in kinds if name.endswith("_total")
    }
    assert values['r1fleet_repairs_total{result="mended"}'] == 1
    assert values[f'r1fleet_model_vram_bytes{{model="{MODEL}"}}'] == SIZE
    assert values["r1fleet_watch_last_run_timestamp_seconds"] == box.now


def test_counters_survive_a_boot(box: Box) -> None:
    on_the_cpu(box)
    box.look()
    box.healthy()
    box.write("proc/sys/kernel/random/boot_id", "b2\n")
    box.look()
    assert 'repairs_total{result="mended"} 1' in box.read("collector/r1fleet.prom")


def test_without_a_collector_nothing_is_written_for_it(box: Box) -> None:
    box.settings["textfile_dir"] = box.root / "none"
    box.look()
    assert not (box.root / "none").exists()


def test_it_is_plain_shell() -> None:
    subprocess.run(["dash", "-n"], input=script(), text=True, check=True)
