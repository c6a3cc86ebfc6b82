"""Leases and histories: the real scripts, on a host that is a folder."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from pyinfra.api import FunctionCommand

from r1fleet import history, lease, outcome
from r1fleet.hostfacts import Probe
from r1fleet.leased import leased
from r1fleet.origin import Origin, origin
from r1fleet.remote import fail, step
from r1fleet.settings import Settings
from tests.operations.fakehost import FakeHost
from tests.unit.build import bare

ANN = Origin("aaaaaaaa", "ann@desk", "0123456789ab", dirty=False, pid=os.getpid(), boot_id="b1")
BOB = Origin("bbbbbbbb", "bob@home", None, dirty=True, pid=1, boot_id="b2")
FAR = "2999-01-01T00:00:00+00:00"
PAST = "2020-01-01T00:00:00+00:00"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(lease, "_mine", {})
    monkeypatch.setattr(lease._Run, "is_over", False)
    monkeypatch.setattr(history, "_watches", {})
    monkeypatch.setattr(lease, "LOCK_DIR", str(tmp_path / "lock"))
    as_(monkeypatch, ANN)
    found = FakeHost(tmp_path, "h")
    found.tool("systemd-cat", '#!/bin/sh\ncat >>"$ROOT/journal"\n')
    yield found
    lease.drop("h")


def as_(monkeypatch: pytest.MonkeyPatch, me: Origin) -> None:
    monkeypatch.setattr(lease, "origin", lambda: me)
    monkeypatch.setattr(history, "origin", lambda: me)


def take(host: FakeHost, probe: Probe | None = None, *, steal: bool = False) -> bool:
    return host.play([lease.take("lease", "takes the lease", probe or bare("T4"), steal)])


def watch(host: FakeHost, **probe: Any) -> history.Watch:
    member: Any = SimpleNamespace(host=host, probe=bare("T4", **probe), settings=Settings())
    return history.Watch(member)


def put(host: FakeHost, text: str) -> None:
    path = host.at("/var/lib/r1fleet/lease.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def on_disk(host: FakeHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.at("/var/lib/r1fleet/lease.json").read_text())
    return found


def lines(host: FakeHost) -> list[dict[str, Any]]:
    path = host.at("/var/lib/r1fleet/history.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def line(me: Origin, until: str) -> str:
    head = {"schema": 1, "run": me.run, "who": me.who, "pid": me.pid, "boot_id": me.boot_id}
    return json.dumps(head | {"since": PAST, "until": until})


def test_a_lease_is_taken_named_and_given_back(host: FakeHost) -> None:
    assert take(host)
    found = on_disk(host)
    assert (found["schema"], found["run"], found["who"]) == (1, "aaaaaaaa", "ann@desk")
    assert found["since"] < found["until"]
    watch(host).end("changed")
    assert not host.at("/var/lib/r1fleet/lease.json").exists()
    assert lease.mine() == []


def test_the_second_operator_is_told_by_name(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take(host)
    before = on_disk(host)
    as_(monkeypatch, BOB)
    assert not take(host)  # its probe was of the moment before
    assert on_disk(host) == before
    found = outcome.of("h")
    assert found.failed_as == "held"
    assert "ann@desk" in str(found.failure)
    assert before["since"] in str(found.failure)
    assert before["until"] in str(found.failure)
    assert "steal=yes" in str(found.failure)


def test_it_is_taken_over_when_that_is_asked_for(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take(host)
    first = watch(host)
    mine = lease._mine["h"]
    as_(monkeypatch, BOB)
    assert take(host, steal=True)
    assert on_disk(host)["who"] == "bob@home"
    assert "ann@desk" in outcome.of("h").warnings[0]
    as_(monkeypatch, ANN)
    lease._mine["h"] = mine
    first.end("failed", "reason")
    assert on_disk(host)["who"] == "bob@home"  # only its own is given back
    assert lines(host)[-1]["who"] == "ann@desk"


@pytest.mark.parametrize("text", [line(BOB, PAST), "", "\n", "{not json\n", '{"schema": 1}\n'])
def test_what_has_run_out_or_is_damaged_holds_nobody(host: FakeHost, text: str) -> None:
    put(host, text)
    assert take(host)
    assert on_disk(host)["who"] == "ann@desk"


def test_a_lease_that_was_seen_and_has_run_out_is_replaced_at_once(host: FakeHost) -> None:
    text = line(BOB, PAST)
    put(host, text + "\n")
    assert take(host, bare("T4", lease=(text, FAR)))
    assert len(host.scripts) == 1


def test_another_lease_than_the_one_that_was_seen_stands(host: FakeHost) -> None:
    put(host, line(BOB, FAR))
    assert not take(host, bare("T4", lease=(line(BOB, PAST), FAR)))
    assert on_disk(host)["who"] == "bob@home"


def test_a_process_that_is_gone_holds_nothing_for_its_own_operator(host: FakeHost) -> None:
    gone = replace(ANN, run="cccccccc", pid=2**22 + 1)
    assert not lease.blocks(lease.read(line(gone, FAR)), PAST, ANN)
    assert lease.blocks(lease.read(line(replace(gone, pid=os.getpid()), FAR)), PAST, ANN)
    assert lease.blocks(lease.read(line(gone, FAR)), PAST, replace(ANN, who="eve@desk"))
    assert lease.blocks(lease.read(line(gone, FAR)), PAST, replace(ANN, boot_id="b9"))
    put(host, line(gone, FAR))
    assert take(host)


def test_the_holder_is_seen_by_the_probe(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    now = "2026-11-24T21:00:00+00:00"
    held = lease.holder(bare("T4", lease=(line(BOB, FAR), now)))
    assert held is not None
    assert str(held) == f"held by bob@home since {PAST}, until {FAR}"
    assert lease.holder(bare("T4", lease=(line(BOB, PAST), now))) is None
    assert lease.holder(bare("T4")) is None
    as_(monkeypatch, BOB)
    assert lease.holder(bare("T4", lease=(line(BOB, FAR), now))) is None


def renewals(host: FakeHost, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the keeper of a lease have its turn so many times."""
    left = [None] * number

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()

    monkeypatch.setattr(lease, "gevent", SimpleNamespace(sleep=sleep))
    try:
        lease._keep(host, lease._mine["h"])  # type: ignore[arg-type]
    except KeyboardInterrupt:
        return


def test_a_lease_is_renewed_and_keeps_its_beginning(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take(host)
    since = on_disk(host)["since"]
    put(host, json.dumps(on_disk(host) | {"until": PAST}) + "\n")  # as after a long reboot
    renewals(host, monkeypatch, 2)
    assert on_disk(host)["since"] == since
    assert on_disk(host)["until"] > since
    assert lease.lost("h") is None


@pytest.mark.parametrize(("text", "told"), [(line(BOB, FAR), "bob@home"), ("", "removed")])
def test_a_lost_lease_ends_the_work_at_the_next_step(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    assert take(host)
    put(host, text)
    renewals(host, monkeypatch, 9)
    assert told in str(lease.lost("h"))
    command = step("stage", "does something", "touch $ROOT/done", "fix")
    assert not host.play([watch(host).over(command)])
    assert not (host.root / "done").exists()
    assert told in str(outcome.of("h").failure)
    assert outcome.of("h").failed_as == "held"
    assert host.at("/var/lib/r1fleet/lease.json").read_text() == text


def test_a_change_is_remembered_with_all_of_its_circumstances(host: FakeHost) -> None:
    verified = {"model": "deepseek-r1:7b", "digest": "sha256:1", "settings": "0" * 12}
    assert take(host)
    watched = watch(host, state={"verified": verified}, engine_current="0.32.15-aa")
    assert host.play([watched.over(step("stage", "does it", "true", "fix", change="it"))])
    outcome.of("h").settings = "1" * 12
    assert host.play([history.close()])
    (found,) = lines(host)
    assert json.loads((host.root / "journal").read_text()) == found
    assert found["schema"] == 1
    assert (found["run"], found["who"]) == ("aaaaaaaa", "ann@desk")
    assert (found["commit"], found["dirty"]) == ("0123456789ab", False)
    assert found["from"] == verified | {"driver": None, "engine": "0.32.15-aa"}
    assert set(found["to"]) == set(found["from"])
    assert found["to"]["settings"] == "1" * 12
    assert (found["changes"], found["verdict"], found["reason"]) == (["it"], "changed", None)


def test_a_failing_step_is_remembered_and_the_host_given_back(host: FakeHost) -> None:
    assert take(host)
    watched = watch(host)
    steps = [
        watched.over(step("stage", "does it", "true", "fix", change="it")),
        watched.over(fail("something", "it broke", "mend it")),
        watched.over(step("stage", "is never reached", "touch $ROOT/done", "fix")),
    ]
    assert not host.play(steps)
    (found,) = lines(host)
    assert (found["changes"], found["verdict"]) == (["it"], "failed")
    assert "it broke" in found["reason"]
    assert not host.at("/var/lib/r1fleet/lease.json").exists()
    assert not (host.root / "done").exists()


def test_an_exception_is_an_end_too(host: FakeHost) -> None:
    assert take(host)

    def broken(state: object, host: object) -> bool:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        host.play([watch(host).over(FunctionCommand(broken, (), {}))])
    assert outcome.of("h").failure  # who waits for its turn at rebooting sees it
    assert lines(host)[0]["verdict"] == "failed"
    assert not host.at("/var/lib/r1fleet/lease.json").exists()


def test_an_interruption_right_after_the_lease_gives_the_host_back(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the host is looked at again, no step of its work has begun."""
    run: Any = SimpleNamespace(host=host, probe=bare("T4"), settings=Settings(), rehearsing=False)

    def look() -> None:
        history.interrupted()
        monkeypatch.setattr(lease._Run, "is_over", False)
        assert not host.at("/var/lib/r1fleet/lease.json").exists()

    run.look = look
    assert not host.play(leased(run, lambda _: iter([step("stage", "does it", "false", "fix")])))
    (found,) = lines(host)
    assert found["reason"] == "interrupted"


def test_an_interruption_while_the_lease_is_being_taken_gives_the_host_back(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, and the host's answer is still on its way."""
    ends: list[Any] = []
    asked = host.run_shell_command

    def slowly(command: str, *words: Any, **arguments: Any) -> Any:
        answer = asked(command, *words, **arguments)
        if not ends:
            assert host.at("/var/lib/r1fleet/lease.json").exists()
            ends.append(gevent.spawn(history.interrupted))
            gevent.sleep(0.2)
        return answer

    monkeypatch.setattr(host, "run_shell_command", slowly)
    watch(host)
    assert take(host)
    gevent.joinall(ends, raise_error=True)
    assert not host.at("/var/lib/r1fleet/lease.json").exists()


def test_nothing_is_begun_any_more_on_a_host_that_was_given_back(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StandsStill(Exception):
        pass

    def sleep(_: float) -> None:
        raise StandsStill

    assert take(host)
    watched = watch(host)
    history.interrupted()
    monkeypatch.setattr(lease, "gevent", SimpleNamespace(sleep=sleep))
    with pytest.raises(StandsStill):
        host.play([watched.over(step("stage", "does it", "touch $ROOT/done", "fix"))])
    with pytest.raises(StandsStill):
        take(host)
    assert not (host.root / "done").exists()
    assert not host.at("/var/lib/r1fleet/lease.json").exists()


def test_nothing_is_remembered_where_nothing_was_changed(host: FakeHost) -> None:
    assert take(host)
    assert watch(host)
    assert host.play([history.close()])
    assert lines(host) == []
    assert not host.at("/var/lib/r1fleet/lease.json").exists()


def test_lines_are_added_whole_whatever_is_in_them(host: FakeHost) -> None:
    reasons = ['it\'s "quoted" $HOME `id` \\n', "über\nzwei Zeilen", "%s %d"]
    for reason in reasons:
        assert take(host)
        watch(host).end("failed", reason)
    assert [found["reason"] for found in lines(host)] == reasons
    assert host.at("/var/lib/r1fleet/history.jsonl").read_bytes().isascii()


def test_a_history_that_cannot_be_written_is_told_and_the_host_given_back(host: FakeHost) -> None:
    assert take(host)
    host.at("/var/lib/r1fleet/history.jsonl.new").mkdir()
    watch(host).end("failed", "reason")
    assert "history.jsonl could not be written" in outcome.of("h").warnings[0]
    assert not host.at("/var/lib/r1fleet/lease.json").exists()


def test_the_origin_names_this_tree_and_does_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1fleet import origin as module  # noqa: PLC0415

    assert origin() == origin()
    monkeypatch.chdir(tmp_path)
    module._origin.cache_clear()
    outside = origin()
    assert (outside.commit, outside.dirty) == (None, False)
    assert "@" in outside.who
    monkeypatch.setenv("PATH", str(tmp_path))
    module._origin.cache_clear()
    assert origin().commit is None
    module._origin.cache_clear()
