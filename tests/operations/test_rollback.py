"""What is kept for the way back and how it is put back, by the real scripts; and the guard."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import FunctionCommand, Host

from r1fleet import history, outcome, paths
from r1fleet.fleet import HostRun
from r1fleet.model.manifest import manifest_path
from r1fleet.remote import Lost, fail, host_task, step
from r1fleet.rollback import by_hand, keep, restore
from r1fleet.rollback.guard import end, guarded
from r1fleet.rollback.restore import Restoration
from r1fleet.rollback.served import FILES, Served
from r1fleet.settings import Settings
from tests.operations import fakehost
from tests.operations.fakehost import FakeHost
from tests.operations.test_alias_move import RUNUSER
from tests.unit.build import bare
from tests.unit.test_served import NAMES, one

MODEL = manifest_path("deepseek-r1:14b")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(paths, "RESTART_MARK", str(tmp_path / "mark" / "restart"))
    more = ("/etc/r1fleet", "/etc/systemd/system", "/opt/ollama")
    monkeypatch.setattr(fakehost, "MOVED", (*fakehost.MOVED, *more))
    found = FakeHost(tmp_path, tmp_path.name)
    found.tool("runuser", RUNUSER)
    for path in FILES:
        put(found, path, f"old {path}")
    put(found, "/opt/ollama/0.32.15-x/bin/ollama", "").chmod(0o755)
    found.at("/opt/ollama/current").symlink_to("0.32.15-x")
    for name in ("blobs/s", "blobs/weights", f"manifests/{MODEL}"):
        put(found, f"/m/{name}", f"old {name}")
    return found


def put(host: FakeHost, path: str, content: str) -> Path:
    place = host.at(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    return place


def what(host: FakeHost) -> Served:
    files = dict.fromkeys(FILES, "sha")
    return one(files=files, small_blobs=("s",), weights="weights", models_dir=str(host.at("/m")))


def kept(host: FakeHost, served: Served) -> str:
    assert host.play(keep.keep._inner(served, bare()))
    (name,) = (path.name for path in host.at(paths.SERVED_DIR).iterdir())
    return name


def put_back(host: FakeHost, name: str) -> Restoration:
    back = Restoration(name)
    assert host.play([restore.read("rollback", "reads", back)])
    assert host.play([restore.put_back("rollback", "puts back", back)]), outcome.of(host.name)
    return back


def test_it_is_kept_for_root_alone_and_once(host: FakeHost) -> None:
    name = kept(host, what(host))
    folder = host.at(f"{paths.SERVED_DIR}/{name}")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "models" / "manifests" / MODEL).read_text() == f"old manifests/{MODEL}"
    assert not (folder / "models" / "blobs" / "weights").exists()
    assert list(keep.keep._inner(what(host), bare(served=frozenset({name})))) == []


def test_one_of_an_earlier_time_is_dated_anew_when_it_is_served_again(host: FakeHost) -> None:
    kept(host, what(host))
    first = f"20200101T000000Z-{what(host).id}"
    folder = host.at(paths.SERVED_DIR)
    next(folder.iterdir()).rename(folder / first)
    probe = bare(served=frozenset({first, "20210101T000000Z-other"}))
    by_hand_here = replace(probe, state={"served": what(host).id})
    assert list(keep.keep._inner(what(host), by_hand_here)) == []  # it has its place in time
    assert host.play(keep.keep._inner(what(host), probe))
    (name,) = (path.name for path in folder.iterdir())
    assert name > "2026"


def test_the_oldest_go(host: FakeHost) -> None:
    for number in range(7):
        (host.at(paths.SERVED_DIR) / f"2020010{number}T000000Z-x").mkdir(parents=True)
    assert host.play(keep.keep._inner(what(host), bare()))
    assert len(list(host.at(paths.SERVED_DIR).iterdir())) == 5
    assert not (host.at(paths.SERVED_DIR) / "20200102T000000Z-x").exists()


def test_all_of_it_comes_back(host: FakeHost) -> None:
    name = kept(host, what(host))
    put(host, paths.ENGINE_ENV, "new")
    put(host, "/opt/ollama/0.33.0-y/bin/ollama", "")
    host.at("/opt/ollama/current").unlink()
    host.at("/opt/ollama/current").symlink_to("0.33.0-y")
    put(host, f"/m/manifests/{MODEL}", "new")
    host.at("/m/blobs/s").unlink()  # as the engine's start removes what nothing names
    assert put_back(host, name).done == "restart"
    assert host.at(paths.ENGINE_ENV).read_text() == f"old {paths.ENGINE_ENV}"
    assert host.at("/opt/ollama/current").readlink() == Path("0.32.15-x")
    assert host.at(f"/m/manifests/{MODEL}").read_text() == f"old manifests/{MODEL}"
    assert host.at("/m/blobs/s").read_text() == "old blobs/s"
    assert sorted(path.name for path in host.at("/m").iterdir()) == ["blobs", "manifests"]
    assert Path(paths.RESTART_MARK).exists()
    assert put_back(host, name).done == "same"


def test_a_model_alone_needs_no_restart(host: FakeHost) -> None:
    name = kept(host, what(host))
    put(host, f"/m/manifests/{MODEL}", "new")
    put(host, paths.PRELOAD_BODY, "new")
    assert put_back(host, name).done == "models"


def test_hardening_that_it_was_not_proven_under_goes_away(host: FakeHost) -> None:
    """A state that was kept before there was a drop-in comes back without one."""
    files = {path: "sha" for path in FILES if path != paths.ENGINE_HARDENING}
    name = kept(host, replace(what(host), files=files))
    assert put_back(host, name).done == "restart"
    assert not host.at(paths.ENGINE_HARDENING).exists()
    assert put_back(host, name).done == "same"


def test_without_the_weights_or_the_engine_nothing_is_touched(host: FakeHost) -> None:
    name = kept(host, what(host))
    put(host, paths.ENGINE_ENV, "new")
    host.at("/m/blobs/weights").unlink()
    back = Restoration(name)
    commands = [restore.read("rollback", "reads", back), restore.put_back("rollback", "puts", back)]
    assert not host.play(commands)
    assert "weights of the model are no longer there" in (outcome.of(host.name).failure or "")
    assert host.at(paths.ENGINE_ENV).read_text() == "new"


def run_of(host: FakeHost, **facts: Any) -> HostRun:
    pyinfra_host: Any = SimpleNamespace(name=host.name, state=SimpleNamespace(is_executing=True))
    return HostRun(pyinfra_host, Settings(), bare("T4", **facts))


def test_a_failure_is_handed_over_and_the_rest_is_not_done(host: FakeHost) -> None:
    def commands() -> Any:
        yield step("a", "one", "exit 0", "")
        yield step("a", "two", "echo because >&2; exit 1", "mend it")
        yield step("a", "three", "exit 0", "")

    given: list[str | None] = []

    def through() -> Any:
        given.append((yield from guarded(run_of(host), commands())))
        yield end(f"{given[0]}; rolled back")

    assert not host.play(through())
    assert given == ["a: two: because; mend it"]
    assert outcome.of(host.name).failure == "a: two: because; mend it; rolled back"
    assert len(host.scripts) == 2


@host_task
def stumble(host: Host, stage: str, title: str) -> None:
    raise KeyError("models")


def test_a_fault_of_a_step_itself_has_its_way_back_too(host: FakeHost) -> None:
    def commands() -> Any:
        yield stumble("stage", "stumbles")
        yield step("a", "two", "exit 0", "")

    given: list[str | None] = []

    def through() -> Any:
        given.append((yield from guarded(run_of(host), commands())))

    assert host.play(through())
    assert given == ["KeyError: 'models'"]
    assert host.scripts == []


@pytest.mark.parametrize(
    ("fault", "told"), [(ValueError("no plan"), "no plan"), (KeyError("x"), "KeyError: 'x'")]
)
def test_a_fault_of_planning_is_a_failure_too(host: FakeHost, fault: Exception, told: str) -> None:
    def commands() -> Any:
        raise fault
        yield

    given: list[str | None] = []

    def through() -> Any:
        given.append((yield from guarded(run_of(host), commands())))

    assert host.play(through())
    assert given == [f"plan: {told}"]


def test_a_connection_that_is_gone_leaves_no_way_back(host: FakeHost) -> None:
    def commands() -> Any:
        yield lose("stage", "loses it")

    def through() -> Any:
        yield from guarded(run_of(host), commands())
        yield end("never reached")

    assert not host.play(through())
    assert outcome.of(host.name).failed_as == outcome.of(host.name).ending == "lost"
    assert outcome.of(host.name).failure == "Socket is closed: gone; run again"


@host_task
def lose(host: Host, stage: str, title: str) -> None:
    raise Lost("Socket is closed", "gone", "run again")


def test_a_rehearsal_sees_the_commands_themselves(host: FakeHost) -> None:
    command = fail("a", "b", "c")
    run = replace(run_of(host), rehearsing=True)
    assert list(guarded(run, iter([command]))) == [command]  # type: ignore[arg-type]


def test_by_hand_names_what_it_would_do_or_why_not(host: FakeHost) -> None:
    run = replace(run_of(host, served=frozenset(NAMES), state={"served": "ccc"}), rehearsing=True)
    commands = list(by_hand.way_back(run))
    assert [command.args[1] for command in commands] == [
        f"reads what it served ({NAMES[1]})",
        "puts back what it served",
    ]
    same = replace(run, settings=Settings(to="2026-11-30"))
    assert list(by_hand.way_back(same)) == []
    (refused,) = by_hand.way_back(replace(run, settings=Settings(to="2020-01-01")))
    assert isinstance(refused, FunctionCommand)
    assert refused.function.__name__ == "fail"


def test_by_hand_a_host_that_is_held_or_left_alone_is_not_touched(host: FakeHost) -> None:
    lease = ('{"run": "1", "who": "bob@home", "since": "2026", "until": "2999"}', "2026")
    run = run_of(host, served=frozenset(NAMES), state={"served": "ccc"}, lease=lease)
    assert not host.play(by_hand.back._inner(run))
    assert outcome.of(host.name).failed_as == "held"
    assert "bob@home" in str(outcome.of(host.name).failure)
    assert host.scripts == []
    mirror = replace(run, settings=Settings(serve=False))
    assert list(by_hand.back._inner(mirror)) == []
    outcome.of(host.name).maintenance = "until 2999: new PSU"
    assert list(by_hand.back._inner(replace(run, probe=None))) == []


def test_by_hand_it_is_done_under_a_lease(host: FakeHost) -> None:
    run = run_of(host, served=frozenset(NAMES), state={"served": "ccc"})
    first = next(by_hand.back._inner(run))
    assert first.args[:2] == ("lease", "takes the host's lease")


def test_a_dry_run_by_hand_tells_a_refusal(host: FakeHost) -> None:
    run = run_of(host, served=frozenset(NAMES), state={"served": "ccc"})
    run.host.state.is_executing = False  # type: ignore[misc]
    run.settings = Settings(to="2020-01-01")
    next(by_hand.back._inner(run))
    assert outcome.of(host.name).pending == []
    assert "no such state is kept" in str(outcome.of(host.name).refusal)


def test_names_that_came_since_go_and_stay_known_as_ours() -> None:
    then = {"names": ["deepseek-r1:fleet"], "digest": "sha256:a", "known": [["sha256:a", "w"]]}
    names = ["deepseek-r1:fleet", "deepseek-r1:fleet-32b"]
    now = {"names": names, "digest": "sha256:b", "known": [["sha256:b", "v"], ["sha256:a", "w"]]}
    manifests = {manifest_path(names[0]): "a", manifest_path(names[1]): "b"}
    probe = bare("T4", state={"alias": now})
    probe = replace(probe, models=replace(probe.models, manifests=manifests))
    back = one(state={"alias": then})
    (command,) = restore._drop_names(back, {"alias": restore._alias(back, probe)}, probe)
    assert command.args[1] == "removes deepseek-r1:fleet-32b"
    assert restore._alias(back, probe)["known"] == [["sha256:a", "w"], ["sha256:b", "v"]]
    settled = replace(probe, state={"alias": then})
    assert list(restore._drop_names(back, {"alias": then}, settled)) == []


def test_the_history_names_what_it_went_back_to(host: FakeHost) -> None:
    found = outcome.of(host.name)
    assert host.play([restore.note("rollback", "back", "deepseek-r1:7b", "0" * 12)])
    told = history.aim(found, bare("T4"), "deepseek-r1")
    assert (told["model"], told["settings"]) == ("deepseek-r1:7b", "0" * 12)


def test_behind_a_fleet_gateway_never_all_of_two_hosts_go_back_at_once() -> None:
    def run(*gpus: str, balances: bool = False) -> Any:
        driver = SimpleNamespace(gpus=[SimpleNamespace(name=name) for name in gpus])
        probe = SimpleNamespace(driver=driver)
        return SimpleNamespace(probe=probe, balances=balances, balancers=("front",))

    front = {"front": run(balances=True)}
    two = by_hand.turns(front | {"a": run("3090"), "b": run("4090")})
    assert [turn.hosts for turn in two] == [{"a"}, {"front", "b"}]
    many = by_hand.turns(front | {f"n{i}": run("T4") for i in range(5)})
    assert [len(turn.hosts) for turn in many] == [3, 3]
    alone = SimpleNamespace(**vars(run("T4")) | {"balancers": ()})
    assert [turn.hosts for turn in by_hand.turns({"a": alone})] == [{"a"}]
