"""The fall back to the lesser hardening: by the real scripts, on a host that is a folder."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import FunctionCommand

from r1fleet import decide, outcome, paths
from r1fleet.engine import sandbox, wanted
from r1fleet.engine.sandbox import LESSER
from r1fleet.fleet import HostRun
from r1fleet.settings import Settings
from tests.operations import fakehost
from tests.operations.fakehost import FakeHost
from tests.unit.build import RUNNING, bare, working

# What the engine says and does by the profile that its unit has: "$ROOT/full" and "$ROOT/lesser"
# hold how many GPUs it finds, "x" for a unit whose wait for them fails.
SYSTEMCTL = """#!/bin/sh
case $1 in
  restart | start)
    kind=full
    grep -q "THE LESSER" "$ROOT/etc/systemd/system/ollama.service.d/"*.conf && kind=lesser
    echo "$kind" >>"$ROOT/started"
    cp "$ROOT/$kind" "$ROOT/now"
    [ "$(cat "$ROOT/now")" != x ] ;;
  show) echo 0 ;;
esac
"""
JOURNALCTL = """#!/bin/sh
[ "$1" != --sync ] || exit 0
case $(cat "$ROOT/now") in
  x) echo "only 0 of 2 GPUs can be used; nvidia-smi tells more" ;;
  0) echo 'msg="inference compute" id=cpu library=cpu' ;;
  2) echo 'msg="inference compute" id=0 library=CUDA'
     echo 'msg="inference compute" id=1 library=CUDA' ;;
  silent) ;;
esac
"""
SMI = """#!/bin/sh
cat "$ROOT/outside"
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(paths, "RESTART_MARK", str(tmp_path / "mark" / "restart"))
    more = ("/etc/r1fleet", "/etc/systemd/system", "/opt/ollama", "/usr/local/bin")
    monkeypatch.setattr(fakehost, "MOVED", (*fakehost.MOVED, *more))
    found = FakeHost(tmp_path, "h")
    for name, text in (
        ("systemctl", SYSTEMCTL),
        ("journalctl", JOURNALCTL),
        ("nvidia-smi", SMI),
        ("curl", "#!/bin/sh\n"),
        ("chown", "#!/bin/sh\n"),
    ):
        found.tool(name, text)
    (tmp_path / "outside").write_text("GPU 0: a\nGPU 1: b\n")
    for name in ("usr/local/bin", "opt/ollama"):
        (tmp_path / name).mkdir(parents=True)
    return found


def go(
    host: FakeHost,
    *,
    full: str,
    lesser: str,
    files: dict[str, str] | None = None,
    pending: bool = False,
) -> bool:
    (host.root / "full").write_text(full)
    (host.root / "lesser").write_text(lesser)
    probe = bare(
        "RTX 4090",
        "RTX 4090",
        driver=working("RTX 4090", "RTX 4090"),
        units={"ollama.service": RUNNING},
        engine_versions=frozenset({"0.32.15"}),
        files=files or {},
        restart_pending=pending,
    )
    stand_in: Any = SimpleNamespace(name="h", state=SimpleNamespace(is_executing=True))
    run = HostRun(stand_in, Settings(), probe)
    choice = decide.size(run.settings, probe).sizing.chosen
    want = wanted.engine(run.settings, choice, probe)
    return host.play(_played(sandbox.install(run, probe, want)))


def _played(commands: Any) -> Iterator[FunctionCommand]:
    yield from commands


def started(host: FakeHost) -> list[str]:
    return (host.root / "started").read_text().split()


def on_disk(host: FakeHost) -> str:
    text = host.at(paths.ENGINE_HARDENING).read_text()
    return "lesser" if "THE LESSER" in text else "full"


def test_a_full_profile_that_shows_all_gpus_stays(host: FakeHost) -> None:
    assert go(host, full="2", lesser="2")
    assert (started(host), on_disk(host)) == (["full"], "full")
    assert outcome.of("h").warnings == []


@pytest.mark.parametrize("seen", ["0", "x"])
def test_gpus_that_only_the_unit_does_not_see_mean_the_lesser_profile(
    host: FakeHost, seen: str
) -> None:
    assert go(host, full=seen, lesser="2")
    assert (started(host), on_disk(host)) == (["full", "lesser"], "lesser")
    assert outcome.of("h").warnings == [LESSER]


def test_what_the_journal_tells_late_is_waited_for(host: FakeHost) -> None:
    late = """#!/bin/sh
[ "$1" != --sync ] || { echo >>"$ROOT/asked"; exit; }
[ $(grep -c "" "$ROOT/asked") -ge 3 ] || exit 0
"""
    host.tool("journalctl", late + JOURNALCTL.partition("exit 0\n")[2])
    host.tool("sleep", "#!/bin/sh\n")
    assert go(host, full="0", lesser="2")
    assert (started(host), on_disk(host)) == (["full", "lesser"], "lesser")


def test_a_host_that_has_it_keeps_it_and_tells_every_run(host: FakeHost) -> None:
    probe = bare("RTX 4090", "RTX 4090", driver=working("RTX 4090", "RTX 4090"))
    choice = decide.size(Settings(), probe).sizing.chosen
    lesser = wanted.sandbox(Settings(), choice, probe).lesser
    assert go(host, full="0", lesser="2")
    outcome.forget("h")
    (host.root / "started").unlink()
    assert go(host, full="0", lesser="2", files={lesser.path: lesser.sha256})
    assert started(host) == ["lesser"]  # its other files differ in this test
    assert outcome.of("h").warnings == [LESSER]


def test_a_trial_that_was_cut_off_is_gone_on_with(host: FakeHost) -> None:
    """Killed between the lesser file and its start: whether it helps is not known yet."""
    probe = bare("RTX 4090", "RTX 4090", driver=working("RTX 4090", "RTX 4090"))
    choice = decide.size(Settings(), probe).sizing.chosen
    lesser = wanted.sandbox(Settings(), choice, probe).lesser
    assert go(host, full="0", lesser="2")
    (host.root / "started").unlink()
    files = {lesser.path: lesser.sha256}
    assert go(host, full="0", lesser="0", files=files, pending=True)
    assert (started(host), on_disk(host)) == (["lesser", "full"], "full")


def test_gpus_that_are_gone_outside_as_well_are_no_matter_of_the_profile(host: FakeHost) -> None:
    (host.root / "outside").write_text("GPU 0: a\n")
    assert not go(host, full="x", lesser="2")
    assert (started(host), on_disk(host)) == (["full"], "full")
    assert "GPUs can be used" in (outcome.of("h").failure or "")


def test_what_the_lesser_profile_does_not_help_goes_on_with_the_full_one(host: FakeHost) -> None:
    assert go(host, full="0", lesser="0")  # the proof fails it, with its own words
    assert (started(host), on_disk(host)) == (["full", "lesser", "full"], "full")
    assert outcome.of("h").warnings == []


def test_a_journal_that_says_nothing_decides_nothing(host: FakeHost) -> None:
    assert go(host, full="silent", lesser="2")
    assert started(host) == ["full"]
