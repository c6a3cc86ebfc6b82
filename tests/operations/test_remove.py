"""Taking r1fleet away: who goes, what goes, what stays, and the scripts on a folder."""

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import brought, fleet, outcome, paths
from r1fleet.driver import install as driver
from r1fleet.fleet import HostRun
from r1fleet.gateway import fleet as made
from r1fleet.gateway import wanted
from r1fleet.gateway.pool import Stand
from r1fleet.hostfacts import Gateway, LoadedModel, ModelStore, Probe, System
from r1fleet.leased import rehearse
from r1fleet.remove import away, plan, scripts, who
from r1fleet.settings import Settings
from tests.operations.fakehost import FakeHost
from tests.unit.build import RUNNING, bare, working

MODELS = {"registry.ollama.ai/library/deepseek-r1/14b": "a" * 64}
CAME = (("user", "ollama"), ("tool", "aria2"), ("driver", "nvidia-open"), ("driver", "dkms"))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(fleet, "_fleet", fleet._Fleet())


def serving(**changes: Any) -> Probe:
    found = bare(
        "T4",
        driver=working("T4"),
        engine_current="0.32.15",
        engine_versions=frozenset({"0.32.15"}),
        files={paths.ENGINE_ENV: "0" * 64, paths.MODPROBE_CONF: "0" * 64},
        here=frozenset({"state.json", "brought"}),
        brought=CAME,
        packages={"nvidia-open": "580"},
        user_groups=frozenset({"ollama"}),
        models=ModelStore("directory", "ollama:ollama", manifests=MODELS),
        loaded=(LoadedModel("deepseek-r1:14b", "a" * 64, 1, 1, 4096),),
    )
    return replace(found, **changes)


def run_of(
    name: str = "a",
    probe: Probe | None = None,
    balancers: tuple[str, ...] = (),
    inventory: tuple[Any, ...] = (),
    **settings: Any,
) -> HostRun:
    state = SimpleNamespace(is_executing=False, inventory=inventory)
    host: Any = SimpleNamespace(
        name=name, data={"ssh_hostname": f"{name}.example"}, groups=[], state=state
    )
    run = HostRun(host, Settings(**settings), probe or serving(), balancers=balancers)
    fleet._fleet.runs[name] = run
    return run


def steps(run: HostRun) -> list[str]:
    found, refusal = rehearse(run, away._plan)
    assert refusal is None
    return found


def test_a_host_is_drained_and_its_state_goes_last() -> None:
    run = run_of()
    assert steps(run) == [
        "remove: looks for packages being installed",
        "engine: waits for running requests",
        "remove: stops Ollama and takes it away",
        "remove: removes the user ollama",
        "remove: removes the packages aria2",
        "remove: removes its settings, scripts, state and history",
    ]
    assert outcome.of("a").notes[-1] == away.AFTER
    assert outcome.of("a").notes[:-1] == [
        "the models in /var/lib/ollama/models stay, 1 names"
        " (--data remove_models=yes takes them too)",
        "the driver 580.178.04 stays, with its package source"
        " (--data remove_driver=yes takes it too)",
    ]


def test_all_of_it_goes_where_that_is_said() -> None:
    probe = serving(
        gateway=Gateway(versions=frozenset({"2.11.9"})),
        units={wanted.UNIT: RUNNING},
        files={paths.MIRROR_CONF: "0" * 64, paths.PRELOAD: "0" * 64},
        # libcuda1 was held before the first deploy; docker-ce has been since, by an administrator.
        system=System(
            held=frozenset({"nvidia-open", "libcuda1", "docker-ce"}),
            record={"held": True, "held_before": ["libcuda1"]},
        ),
    )
    run = run_of(probe=probe, remove_models=True, remove_driver=True)
    found = steps(run)
    assert found[1:5] == [
        "gateway: holds new requests back",
        "engine: waits for running requests",
        "gateway: closes and removes the gateway",
        "remove: stops Ollama and takes it away",
    ]
    assert found[5:] == [
        "remove: takes the mirror away, with what it holds",
        "remove: removes the models in /var/lib/ollama/models",
        "remove: removes the user ollama",
        "remove: lets go of 1 held packages",
        "remove: removes the packages aria2",
        "remove: removes the driver: dkms, nvidia-open",
        "remove: removes its settings, scripts, state and history",
    ]
    assert outcome.of("a").notes == [away.AFTER]


def test_what_was_there_before_stays() -> None:
    probe = serving(
        brought=(("driver", "dkms"),),
        here=frozenset({"state.json", "adopted"}),
        dropins=("/etc/systemd/system/ollama.service.d/mine.conf",),
    )
    run = run_of(probe=probe, remove_driver=True)
    assert "user" not in str(steps(run))
    assert "driver:" not in str(steps(run))
    assert [note.partition(" stays")[0] for note in outcome.of("a").notes[1:-1]] == [
        "the driver 580.178.04",
        "the user ollama",
        "/etc/systemd/system/ollama.service.d/mine.conf",
        "what was there before r1fleet lies in /var/lib/r1fleet/adopted",
    ]


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"here": frozenset({"adopted"})},
        # A driver that stayed the last time, with its notes; and somebody else's Ollama.
        {"here": frozenset({"brought"}), "brought": CAME, "packages": {"nvidia-open": "580"}},
        {"files": {paths.MODPROBE_CONF: "0" * 64, paths.ENGINE_UNIT: "0" * 64}},
    ],
)
def test_where_nothing_of_it_is_nothing_is_sent(left: dict[str, Any]) -> None:
    run = run_of(probe=bare("T4", **left))
    assert steps(run) == []
    assert outcome.of("a").notes == ["nothing of r1fleet is on it"]


def test_a_driver_that_stayed_can_be_asked_for_later() -> None:
    left = bare("T4", here=frozenset({"brought"}), brought=CAME, packages={"nvidia-open": "580"})
    assert "remove: removes the driver: dkms, nvidia-open" in steps(
        run_of(probe=left, remove_driver=True)
    )
    assert "stops Ollama" not in str(steps(run_of(probe=left, remove_driver=True)))


@pytest.mark.parametrize(
    ("there", "word"),
    [
        ({"here": frozenset({"lease.json"})}, "state"),
        ({"engine_versions": frozenset({"1"})}, "Ollama"),
        ({"files": {paths.PRELOAD: "0" * 64}}, "Ollama"),
        ({"files": {paths.MIRROR_CONF: "0" * 64}}, "mirror"),
        ({"gateway": Gateway(versions=frozenset({"1"}))}, "gateway"),
    ],
)
def test_what_a_cut_off_removal_left_is_seen(there: dict[str, Any], word: str) -> None:
    assert word in str(steps(run_of(probe=bare("T4", **there))))


def test_a_driver_that_others_use_is_not_taken() -> None:
    probe = serving(system=System(workloads=("docker-1.scope",)))
    _, refusal = rehearse(run_of(probe=probe, remove_driver=True), away._plan)
    assert refusal == "driver: the host is also used by docker-1.scope; leave remove_driver out"
    assert rehearse(run_of(probe=probe), away._plan)[1] is None


def test_without_roots_rights_nothing_is_begun() -> None:
    _, refusal = rehearse(run_of(probe=serving(is_root=False)), away._plan)
    assert refusal
    assert "root's rights" in refusal


def member(name: str, *groups: str, **data: Any) -> Any:
    return SimpleNamespace(
        name=name, groups=groups, data={"ssh_hostname": f"{name}.example"} | data
    )


def test_a_mirror_stays_while_hosts_fetch_through_it() -> None:
    inventory = (
        member("cache", "mirror"),
        member("a"),
        member("own", mirror_url="http://elsewhere:5050"),
        member("named", mirror_url="http://Cache.example:5050"),
        member("other", mirror_url="http://my-cache.example.org:5050"),
        member("odd", mirror_url="http://[cache.example"),
        member("desk", serve=False),
    )
    run = run_of("cache", inventory=inventory, serve=False)
    run.mirror = Any
    _, refusal = rehearse(run, away._plan)
    assert refusal
    assert refusal.startswith("mirror: these fetch through it: a, named; take it out of")
    for name in ("a", "named"):
        run_of(name, inventory=inventory)
    assert rehearse(run, away._plan)[1] is None


def fleet_of(*names: str, knows: tuple[str, ...] = ("a", "b")) -> dict[str, HostRun]:
    """A run with these hosts; `gw` balances over those that it knows."""
    inventory = tuple(member(name) for name in ("gw", "a", "b"))
    stands = [Stand(name, f"{name}:1", ("14b",), None, None, "off") for name in knows]
    gateway = bare(gateway=Gateway(knows=made.knows(stands, ())))
    balancers = ("gw",) if "gw" in names else ()
    for name in names:
        probe = gateway if name == "gw" else serving()
        serve = {"serve": False} if name == "gw" else {}
        run_of(name, probe, balancers, inventory, **serve)
    return fleet._fleet.runs


@pytest.mark.parametrize(
    ("names", "goes", "stays"),
    [
        (("gw", "a"), ["a"], {"gw": ["b"]}),
        (("gw", "a", "b"), ["gw", "a", "b"], {}),
        (("gw",), ["gw"], {}),
        (("a",), ["a"], {}),
    ],
)
def test_a_fleet_gateway_stays_with_the_hosts_behind_it(
    names: tuple[str, ...], goes: list[str], stays: dict[str, list[str]]
) -> None:
    runs = fleet_of(*names)
    assert who.leaving(runs) == goes
    assert who.staying(runs) == stays


def test_a_host_does_not_go_while_a_gateway_could_not_be_told() -> None:
    runs = fleet_of("gw", "a")
    outcome.of("gw").failure = "gateway: no space"
    _, refusal = rehearse(runs["a"], away._plan)
    assert refusal
    assert refusal.startswith("fleet gateway: the fleet gateway gw failed")


@pytest.mark.parametrize(
    ("told", "given", "is_meant"), [(2, True, True), (1, True, False), (2, False, False)]
)
def test_a_run_must_be_told_how_many_hosts_are_meant(
    told: int, given: bool, is_meant: bool
) -> None:
    lines = who.unconfirmed(["a", "b"], told, given)
    assert (lines == []) is is_meant
    if not is_meant:
        assert lines[0] == "remove.py would take r1fleet away from 2 hosts: a, b"
        assert lines[-1].endswith("--data remove=2")
    assert len(who.unconfirmed(["a"], None, False)) == 2


def test_packages_that_others_need_stay(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, "h")
    host.tool("dpkg-query", '#!/bin/sh\n[ "$4" = gone ] || printf "ii "\n')
    host.tool(
        "apt-get",
        '#!/bin/sh\necho "$*" >>"$ROOT/apt"\n'
        '[ "$1" != -s ] || { echo "Purg aria2 [1]"; cat "$ROOT/more" 2>/dev/null; }\nexit 0\n',
    )
    assert host.play([away.purge("remove", "removes", ("aria2", "gone"))])
    assert "purge -y aria2\n" in (tmp_path / "apt").read_text()
    assert outcome.of("h").changes == ["packages removed"]
    (tmp_path / "apt").unlink()
    (tmp_path / "more").write_text("Remv theirs [2]\n")
    assert host.play([away.purge("remove", "removes", ("aria2",))])
    assert "purge -y" not in (tmp_path / "apt").read_text()
    assert outcome.of("h").warnings == ["the packages aria2 stay: theirs would go with them"]


def test_only_what_a_script_brought_is_noted_also_when_it_fails(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, "h")
    listed = tmp_path / "listed"
    listed.write_text("ii  old\nrc  gone\n")
    host.tool("dpkg-query", '#!/bin/sh\ncat "$ROOT/listed"\n')
    # As apt does it: it has its hook told what it is to unpack, then has it unpacked.
    host.tool(
        "apt-get",
        """#!/bin/sh
hook=$(sed -n 's/^DPkg::Pre-Install-Pkgs { "\\(.*\\)"; };$/\\1/p' "$APT_CONFIG")
for name in old new; do echo "/var/cache/apt/archives/${name}_1%3a2_all.deb"; done | sh -c "$hook"
echo "ii  new" >>"$ROOT/listed"
exit 3
""",
    )
    # "ew" and "theirs" come by somebody else, while apt is waited for.
    theirs = 'printf "ii  theirs\\nii  ew\\n" >>"$ROOT/listed"'
    script = brought.noting("tool", f"set -e\n{theirs}\necho why\napt-get install old new\n")
    ok, output = host.run_shell_command(script, False, False, _timeout=30)
    assert (ok, output.stdout) == (False, "why\n")
    assert host.at(paths.BROUGHT_FILE).read_text() == "tool new\n"


def state_script(root: Path, notes_stay: str) -> None:
    text = scripts.STATE
    for path in (paths.ETC, paths.LIB, "/opt/r1fleet", "/run/r1fleet", paths.STATE_DIR):
        text = text.replace(f" {path}", f" {root}{path}").replace(f"={path}", f"={root}{path}")
    done = subprocess.run(
        ["sh", "-c", f"NOTES_STAY={notes_stay}\n{text}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notes_stay", ["yes", ""])
def test_the_state_goes_but_for_what_stays(tmp_path: Path, notes_stay: str) -> None:
    state = tmp_path / paths.STATE_DIR.lstrip("/")
    for name in ("served/x/meta.json", "state.json", "history.jsonl", ".new"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("")
    (state / "brought").write_text("tool aria2\ndriver dkms\ndriver dkms\n")
    for _ in range(2):  # again after it was cut off, or for nothing
        state_script(tmp_path, notes_stay)
    left = [path.name for path in state.iterdir()] if state.exists() else []
    assert left == (["brought"] if notes_stay else [])
    if notes_stay:
        assert (state / "brought").read_text() == "driver dkms\n"
        (state / "adopted").mkdir()
        state_script(tmp_path, "")
        assert [path.name for path in state.iterdir()] == ["adopted"]


def test_a_driver_that_is_being_installed_is_not_cut_off() -> None:
    assert f"{driver.UNIT}.service" in plan.AT_WORK
