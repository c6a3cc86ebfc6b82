"""Taking over an Ollama that is there: operations, and their scripts on a host that is a folder."""

import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from pyinfra.api import Host

from r1fleet import outcome
from r1fleet.adopt import back, facts, install
from r1fleet.adopt.plan import Taking
from r1fleet.fleet import HostRun
from r1fleet.hostfacts import LoadedModel
from r1fleet.remote import title
from r1fleet.settings import Settings
from r1fleet.stages import store
from tests.operations import fakehost
from tests.operations.fakehost import FakeHost
from tests.unit.build import bare

UNIT_FILE = "/etc/systemd/system/ollama.service"
PROGRAM = "/usr/local/bin/ollama"
INSTALL_SH = Taking("install.sh", "ollama.service", "/old", 998, unit_file=UNIT_FILE, enabled=True)
PERSON = Taking("process", "ann", "/home/ann/.ollama/models", 1000, stays=True, pid=812)
NOTE = 'echo "$(basename "$0") $*" >>"$ROOT/calls"\n'


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    moved = (*fakehost.MOVED, "/usr/local/bin", "/etc/systemd/system")
    monkeypatch.setattr(fakehost, "MOVED", moved)
    found = FakeHost(tmp_path, tmp_path.name)
    for tool in ("docker", "snap"):
        found.tool(tool, f"#!/bin/sh\n{NOTE}")
    found.tool("systemctl", f'#!/bin/sh\n{NOTE}[ "$1" != is-active ]\n')
    return found


def calls(host: FakeHost) -> list[str]:
    return host.at("calls").read_text().splitlines()


def put(host: FakeHost, path: str, text: str) -> Path:
    file = host.at(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def stop(host: FakeHost, taking: Taking) -> bool:
    # The fake host's paths are rewritten in scripts, values among them.
    return host.play(list(install.stop._inner((taking,), bare(), 11434, 0)))


def test_what_is_begun_is_noted_before_anything_is_taken() -> None:
    steps = list(install.take._inner((INSTALL_SH, PERSON), bare(), "/var/lib/ollama/models"))
    assert [title(one) for one in steps] == [
        "verify: writes what was decided and proven",
        "adopt: takes the models of /old along to /var/lib/ollama/models",
        "adopt: takes the models of /home/ann/.ollama/models along to /var/lib/ollama/models",
    ]


def test_what_was_begun_is_not_noted_again() -> None:
    state = install.begun({}, [INSTALL_SH])
    steps = list(install.take._inner((INSTALL_SH,), bare(state=state), "/new"))
    assert [title(one).split(":")[0] for one in steps] == ["adopt"]


def test_only_one_that_runs_and_has_a_model_in_memory_is_waited_for() -> None:
    loaded = bare(loaded=(LoadedModel("m", "d", 1, 1, 1),))
    titles = [title(one) for one in install.stop._inner((PERSON,), loaded, 11434, 60)]
    assert titles == [
        "adopt: waits for requests to `ollama serve` of the user ann",
        "adopt: takes the place of `ollama serve` of the user ann",
    ]
    for takings, probe, limit_s in (
        ((PERSON,), bare(), 60),
        ((PERSON,), loaded, 0),
        ((replace(PERSON, pid=0),), loaded, 60),
    ):
        assert len(list(install.stop._inner(takings, probe, 11434, limit_s))) == 1


def test_models_of_a_person_keep_their_names() -> None:
    assert list(install.leave._inner((PERSON,), "/new")) == []
    assert len(list(install.leave._inner((INSTALL_SH,), "/new"))) == 1


def test_unit_file_and_program_are_kept_and_come_back(host: FakeHost) -> None:
    put(host, UNIT_FILE, "[Service]\nExecStart=/usr/local/bin/ollama serve\n")
    put(host, PROGRAM, "the program")
    for _ in range(2):  # it can be done again
        assert stop(host, INSTALL_SH)
        assert not host.at(UNIT_FILE).exists()
        assert not host.at(PROGRAM).exists()
    kept = [path for path in host.at("/var/lib/r1fleet/adopted").rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == ["ollama", "ollama.service"]

    state = {"adopted": install.finished(install.begun({}, [replace(INSTALL_SH, models="")]))}
    assert host.play(list(back.bring_back._inner(state, "/new", "ollama")))
    assert host.at(UNIT_FILE).read_text().startswith("[Service]")
    assert host.at(PROGRAM).read_text() == "the program"
    assert calls(host)[-1] == "systemctl enable -q --now ollama.service"


def test_files_of_r1fleets_own_are_left(host: FakeHost) -> None:
    unit = put(host, UNIT_FILE, "# Written by r1fleet and overwritten by it.\n")
    program = host.at(PROGRAM)
    program.parent.mkdir(parents=True)
    program.symlink_to("/opt/ollama/current/bin/ollama")
    assert stop(host, INSTALL_SH)
    assert unit.exists()
    assert program.is_symlink()
    assert not [call for call in calls(host) if "stop" in call]


@pytest.mark.parametrize(
    ("taking", "ended", "started"),
    [
        (
            Taking("docker", "box", restart="always"),
            ["docker update --restart=no box", "docker stop box"],
            ["docker update --restart=always box", "docker start box"],
        ),
        (Taking("snap", "ollama"), ["snap stop --disable ollama"], ["snap start --enable ollama"]),
        (
            Taking("service", "my.service"),
            ["systemctl disable -q --now my.service"],
            ["systemctl enable -q --now my.service"],
        ),
    ],
)
def test_each_kind_is_ended_and_started_by_its_own_means(
    host: FakeHost, taking: Taking, ended: list[str], started: list[str]
) -> None:
    assert stop(host, taking)
    assert calls(host) == [*ended, "systemctl daemon-reload"]
    host.at("calls").unlink()
    state = {"adopted": install.finished(install.begun({}, [taking]))}
    assert host.play(list(back.bring_back._inner(state, "/new", "ollama")))
    assert calls(host) == ["systemctl daemon-reload", *started]


@pytest.mark.parametrize(("name", "ends"), [("ollama", True), ("other", False)])
def test_a_process_is_ended_only_while_it_is_ollama(host: FakeHost, name: str, ends: bool) -> None:
    program = host.root / name
    shutil.copy("/bin/sleep", program)
    user = subprocess.run(["id", "-nu"], capture_output=True, text=True, check=True).stdout.strip()
    process = subprocess.Popen([program, "60"])
    try:
        if ends:  # a zombie would still have its name
            threading.Thread(target=process.wait).start()
        assert stop(host, replace(PERSON, name=user, pid=process.pid))
        assert (process.poll() is not None) == ends
    finally:
        process.kill()
        process.wait()


def test_a_process_of_another_user_is_not_touched(host: FakeHost) -> None:
    program = host.root / "ollama"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "60"])
    try:
        assert not stop(host, replace(PERSON, name="nobody-else", pid=process.pid))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_what_was_only_begun_is_brought_back_too(host: FakeHost) -> None:
    """The driver or the proof failed after it was stopped."""
    state = install.begun({}, [Taking("snap", "ollama")])
    assert host.play(list(back.bring_back._inner(state, "/new", "ollama")))
    assert calls(host)[-1] == "snap start --enable ollama"


def test_a_plan_that_is_begun_and_left_has_taken_nothing() -> None:
    """As a run does to see whether there is something to do (leased.py)."""
    probe = bare(existing=facts.read(["found snap", "models /old", "owner 998", "near yes"]))
    run = HostRun(cast(Host, None), Settings(), probe, rehearsing=True)
    plan = store(run, probe)
    for command in plan:
        if "takes the models" in title(command):
            break
    else:
        raise AssertionError("nothing would be taken")
    plan.close()
    assert run.adopting == ()


def test_what_somebody_has_put_in_its_place_stays_and_is_told(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    put(host, UNIT_FILE, "[Service]\n")
    put(host, PROGRAM, "the program")
    assert stop(host, INSTALL_SH)
    put(host, UNIT_FILE, "somebody's")
    host.at("calls").unlink()
    state = {"adopted": install.finished(install.begun({}, [replace(INSTALL_SH, models="")]))}
    assert host.play(list(back.bring_back._inner(state, "/new", "ollama")))
    assert host.at(UNIT_FILE).read_text() == "somebody's"
    kept = host.at(f"/var/lib/r1fleet/adopted{host.root}{UNIT_FILE}")
    assert kept.read_text() == "[Service]\n"
    (line,) = outcome.of(host.name).warnings
    assert line.startswith(f"{host.at(UNIT_FILE)} has come since, and stays")
    assert line.endswith(str(kept))
    assert host.at(PROGRAM).read_text() == "the program"
    assert calls(host) == ["systemctl daemon-reload"]  # the unit is not ours to start


def test_models_that_a_person_has_as_well_become_the_persons_again(host: FakeHost) -> None:
    ours, theirs = (host.root / name / "blobs" for name in ("ours", "theirs"))
    names = [f"sha256-{digit * 64}" for digit in "0123"]
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
    for name in names:
        (ours / name).write_text(name)
    (theirs / names[0]).hardlink_to(ours / names[0])
    (theirs / names[1]).write_text("a copy")
    (theirs / names[2]).symlink_to(ours / names[2])  # would be followed as root
    host.tool("setpriv", '#!/bin/sh\necho "$1" >>"$ROOT/calls"\nshift 3\nexec "$@"\n')
    host.tool("chown", f"#!/bin/sh\n{NOTE}")
    host.tool("id", "#!/bin/sh\necho 100\n")
    person = replace(PERSON, models=str(theirs.parent))
    steps = list(back.bring_back._inner(install.begun({}, [person]), str(ours.parent), "ollama"))
    assert host.play(steps[:1])
    assert calls(host) == ["--reuid=1000", f"chown -h 1000:100 {names[0]}"]


def test_a_link_to_the_folder_itself_gives_nothing_away(host: FakeHost) -> None:
    ours = host.root / "ours/blobs"
    ours.mkdir(parents=True)
    for digit in "01":
        (ours / f"sha256-{digit * 64}").write_text("x")
    (host.root / "more").hardlink_to(ours / f"sha256-{'0' * 64}")
    (host.root / "theirs").symlink_to(host.root / "ours")
    host.tool("setpriv", '#!/bin/sh\nshift 3\nexec "$@"\n')
    host.tool("chown", f"#!/bin/sh\n{NOTE}")
    state = install.begun({}, [replace(PERSON, models=str(host.root / "theirs"))])
    steps = list(back.bring_back._inner(state, str(host.root / "ours"), "ollama"))
    assert host.play(steps[:1])
    assert not host.at("calls").exists()
