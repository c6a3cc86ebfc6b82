"""The doctor's checks, and a probe that can be given away."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import probe
from r1fleet.anonymous import anonymous
from r1fleet.doctor import Check, checks, is_sound
from r1fleet.drift import Drift
from r1fleet.hostfacts import Probe, Unit, Watch
from r1fleet.settings import Settings
from r1fleet.status_data import row, silent_row
from tests.unit.served import choice_of, served

NOW = datetime.now(UTC)
RECORDED = Path(__file__).parent / "data" / "probe" / "duo_served.txt"


def look(*drift: Drift, warnings: tuple[str, ...] = (), **changed: Any) -> tuple[Check, ...]:
    found = served()
    made = row("gpu1", Settings(), found, choice_of(found), drift, [], None, warnings, NOW)
    return checks(made | changed)


def test_a_sound_host_tells_what_was_seen() -> None:
    found = {check.name: check.what for check in look()}
    assert is_sound(look())
    assert found["reached"] == "answers by SSH"
    assert found["driver"] == "580.178.04, open module"
    assert found["model"].startswith("14b ")
    assert found["memory"].startswith("100% on the GPUs, context ")
    assert found["alias"] == "deepseek-r1:fleet"
    assert found["proof"].endswith("42.0 tokens/s")
    assert found["disk"] == "900.0 GB free"


def test_what_the_hosts_own_watch_says_is_a_warning_at_most() -> None:
    since_s = int(NOW.timestamp()) - 300
    quiet = replace(served(), watch=Watch(since_s=since_s))
    failing = replace(
        served(),
        watch=Watch(("disk",), "90 MiB are free", since_s, (since_s, since_s - 90000)),
        units={**served().units, "r1fleet-watch.service": Unit(active="failed")},
    )
    assert watch_of(quiet) == [("ok", "nothing to tell for 5 min")]
    assert watch_of(failing) == [
        ("warning", "its last look was cut off"),
        ("warning", "failing for 5 min: 90 MiB are free"),
        ("warning", "the model was on the CPU: the engine was restarted for it once in 24 hours"),
    ]
    assert watch_of(served()) == []


def watch_of(probe: Probe) -> list[tuple[str, str]]:
    made = row("gpu1", Settings(), probe, choice_of(probe), (), [], None, (), NOW)
    return [(check.level, check.what) for check in checks(made) if check.name == "watch"]


@pytest.mark.parametrize(
    ("drift", "name", "fix"),
    [
        (Drift("residency", "40 % on the CPU"), "memory", "a run of deploy.py mends it"),
        (Drift("drop-in", "x.conf is not r1fleet's"), "unit", "systemctl cat ollama"),
        (Drift("of a later release", "something"), "other", "a run of deploy.py mends it"),
    ],
)
def test_each_drift_is_a_line_with_what_to_do(drift: Drift, name: str, fix: str) -> None:
    (bad,) = [check for check in look(drift) if check.level == "bad"]
    assert (bad.name, bad.what) == (name, drift.what)
    assert fix in bad.fix
    assert not is_sound(look(drift))


def test_every_kind_of_drift_has_its_check() -> None:
    source = (Path(__file__).parents[2] / "r1fleet" / "drift.py").read_text()
    kinds = set(re.findall(r'Drift\(\s*"([a-z -]+)"', source)) - {"step"}
    assert kinds
    assert {look(Drift(kind, "x"))[-1].name for kind in kinds} == {"disk"}
    others = [kind for kind in kinds if any(c.name == "other" for c in look(Drift(kind, "x")))]
    assert others == []


def test_warnings_stand_and_are_no_fault() -> None:
    found = look(warnings=("68 GB free, advised are 200",))
    assert Check("warning", "warning", "68 GB free, advised are 200") in found
    assert is_sound(found)


def test_a_held_host_names_its_holder() -> None:
    lease = {"who": "ann@laptop", "until": "2026-11-26T18:00:00", "is_over": False}
    found = look(lease={**lease, "is_left": False})
    assert any(c.level == "bad" and "held by ann@laptop" in c.what for c in found)
    assert is_sound(look(lease={**lease, "is_left": True}))


def test_a_host_that_does_not_answer_has_one_line() -> None:
    (only,) = checks(silent_row("gpu1", "unreachable", "Could not connect (timed out)"))
    assert (only.name, only.level, only.what) == ("reached", "bad", "Could not connect (timed out)")
    assert only.fix == "ssh gpu1 true must work without a question"


SECRETS = {
    "user": "wilhelmina",
    "host": "gpu7.corp.internal",
    "address": "10.20.30.40",
    "model": "secret-project",
    "registry": "models.corp.internal:5000",
}


def private() -> str:
    text = RECORDED.read_text()
    lines = (
        f"session {SECRETS['user']} wayland",
        f"holder 77 12 {SECRETS['user']} user@1000.service python3",
        f"log [ 1.0] NVRM: Xid (PCI:0000:01:00): 31, pid=77, name={SECRETS['user']}, Ch 2",
    )
    text = text.replace("@@module\n", "@@module\n" + "".join(f"{line}\n" for line in lines))
    path = f"/home/{SECRETS['user']}/models"
    text = text.replace("/var/lib/ollama/models", path)
    other = f"{'ab' * 32}  {path}/manifests/{SECRETS['registry']}/team/"
    text = text.replace("@@models\n", f"@@models\n{other}{SECRETS['model']}/v1\n")
    text = text.replace(
        "rc=0\n@@packages", f"99, /home/{SECRETS['user']}/venv/bin/python3, 300\nrc=0\n@@packages"
    )
    taken = [
        *("found port", "name ollama", f"user {SECRETS['user']}", f"exe /opt/{SECRETS['user']}/x"),
        *(f"env OLLAMA_HOST={SECRETS['address']}", f"model x/{SECRETS['model']}/v1", "kib 12"),
    ]
    text = text.replace("@@holders\n", "\n".join(["@@holders", *taken, ""]))
    gateway = f'knows {{"hosts": [{{"name": "{SECRETS["host"]}"}}]}}'
    text = text.replace("@@gateway\n", f"@@gateway\n{gateway}\nroot -----BEGIN CERTIFICATE-----\n")
    lease = f'{{"schema": 1, "who": "{SECRETS["user"]}@{SECRETS["host"]}"}}'
    text = text.replace("@@lease\n", f"@@lease\n{lease}\n2026-11-26T18:00:00+00:00\n")
    state = f'{{"registry": "https://{SECRETS["registry"]}/v2", "from": "{SECRETS["address"]}",'
    state += (
        f'"adopted": [{{"name": "{SECRETS["user"]}", "from": "of the user {SECRETS["user"]}"}}],'
    )
    return text.replace("@@state\n{", f"@@state\n{state}", 1)


def test_nothing_that_names_anybody_is_left() -> None:
    before = private()
    for secret in SECRETS.values():
        assert secret in before
    after = anonymous(
        before, [SECRETS["host"], "gpu7", SECRETS["address"]], f"/home/{SECRETS['user']}/models"
    )
    for name, secret in SECRETS.items():
        assert secret not in after, name
    assert not set(re.findall(r"GPU-[0-9a-f-]{36}", before)) & set(
        re.findall(r"GPU-[0-9a-f-]{36}", after)
    )


def test_it_is_still_the_same_host() -> None:
    before = probe.parse(private())
    after = probe.parse(anonymous(private(), ["gpu7"], f"/home/{SECRETS['user']}/models"))
    assert [replace(gpu, uuid="") for gpu in after.driver.gpus] == [
        replace(gpu, uuid="") for gpu in before.driver.gpus
    ]
    assert len({gpu.uuid for gpu in after.driver.gpus}) == 2
    for name in ("distro", "kernel", "arch", "cores", "pci", "packages", "files", "engine_current"):
        assert getattr(after, name) == getattr(before, name), name
    assert set(after.models.manifests.values()) == set(before.models.manifests.values())
    assert after.loaded == before.loaded
    assert after.existing[0].number("kib") == before.existing[0].number("kib") == 12


@given(st.text(st.characters(codec="ascii"), max_size=300))
def test_any_answer_can_be_made_anonymous(text: str) -> None:
    assert anonymous(text, ["gpu1", ""], "/models").isascii()
