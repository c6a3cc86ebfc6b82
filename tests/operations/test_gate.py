"""The gate between waves, and what deploy.py's loop gives each host, without any host."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import fleet, gate, lease, outcome, report, waves
from r1fleet.fleet import HostRun
from r1fleet.gate import Step
from r1fleet.hostfacts import LoadedModel, Probe, Unit
from r1fleet.mirror.plan import MirrorWanted
from r1fleet.remote import step
from r1fleet.report_table import wave_lines
from r1fleet.settings import Settings
from r1fleet.waves import Wave
from tests.operations.fakehost import FakeHost
from tests.unit.build import bare, working

LOADED = (LoadedModel("deepseek-r1:14b", "aa", 1, 1, 4096),)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(outcome, "rollout", outcome.Rollout())
    monkeypatch.setattr(fleet, "_fleet", fleet._Fleet())


def observed(probes: dict[str, Probe | None], **settings: Any) -> dict[str, HostRun]:
    """A fleet after fleet.observe(); a host without a probe did not connect."""
    state: Any = SimpleNamespace(is_executing=True, activated_hosts=[])
    for name, probe in probes.items():
        host: Any = SimpleNamespace(name=name, state=state)
        fleet._fleet.runs[name] = HostRun(host, Settings(**settings), probe)
        if probe:
            state.activated_hosts.append(host)
    return fleet._fleet.runs


def serving(**changes: Any) -> Probe:
    return bare("T4", driver=working("T4"), loaded=LOADED, **changes)


def play(runs: dict[str, HostRun], number: int) -> list[str]:
    """The hosts whose gate before a step fails."""
    return [name for name, run in runs.items() if list(gate.gate._inner(run, Step(number)))]


def test_waves_are_planned_once_for_all_hosts() -> None:
    runs = observed({"a": serving(), "b": serving(), "c": bare("T4"), "gone": None})
    assert [step.number for step in gate.steps()] == [0, 1]
    plan = outcome.rollout.plan
    assert plan == waves.Plan(("c",), (Wave(1, ("a",), canary=True), Wave(2, ("b",))))
    list(gate.steps())
    assert outcome.rollout.plan is plan
    assert Step(0).hosts == {"a", "c"}
    assert Step(1).hosts == {"b"}
    assert str(Step(0)) == "wave 1 (canaries)"
    assert outcome.of("a").pending
    assert outcome.of("gone").pending is None
    assert play(runs, 0) == []


def test_held_hosts_and_those_in_maintenance_are_in_no_wave() -> None:
    text = '{"run": "1", "who": "bob@home", "since": "2026", "until": "2999"}'
    probes = {"a": serving(), "b": serving(lease=(text, "2026")), "c": serving()}
    observed(probes)
    outcome.of("c").maintenance = "until 2999: new PSU"
    list(gate.steps())
    assert outcome.rollout.plan == waves.Plan(("b",), (Wave(1, ("a",)),))
    assert outcome.of("b").held == "held by bob@home since 2026, until 2999"
    assert Step(0).hosts == {"a", "b"}  # b says there that it is held


def test_a_mirror_that_is_not_up_waits_in_no_wave() -> None:
    mirror = MirrorWanted((), "http://127.0.0.1:5080")
    up = {"r1fleet-mirror.service": Unit(active="active", enabled=True)}
    for units, waits in (({}, False), (up, True)):
        probe = serving(tools=frozenset({"nginx", "systemd-run"}), units=units)
        runs = observed({"a": probe})
        runs["a"].mirror = mirror
        assert gate._member(runs["a"]).serves is waits


def test_a_failed_canary_stops_the_rest_by_one_failing_host() -> None:
    runs = observed({"a": serving(), "b": serving(), "c": serving(), "d": bare("T4")})
    list(gate.steps())
    is_open = {name: Step(1).open_to(run) for name, run in runs.items()}
    outcome.of("a").failure = "it broke"
    assert is_open["b"]()
    assert play(runs, 1) == ["b"]
    assert not is_open["b"]()
    assert not is_open["c"]()
    assert is_open["d"]()
    told = str(outcome.of("c").untouched)
    assert told == outcome.of("b").untouched == outcome.rollout.stopped
    assert "a failed" in told
    assert "untouched: b, c" in outcome.rollout.fix
    assert "run again" in outcome.rollout.fix
    assert play(runs, 2) == []  # it is said once
    row = report.row_of("c", outcome.of("c"), reached=True, failed=False, executed=True)
    assert (row["verdict"], row["reason"], row["wave"]) == ("untouched", told, 3)
    row = report.row_of("b", outcome.of("b"), reached=True, failed=True, executed=True)
    assert row["verdict"] == "untouched"


def test_a_proven_canary_opens_the_gate_after_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(gate.time, "sleep", slept.append)
    runs = observed({"a": serving(), "b": serving()}, rollout_pause_s=7)
    list(gate.steps())
    assert play(runs, 0) == []
    outcome.of("a").done = True
    assert play(runs, 1) == []
    assert slept == [7]
    assert outcome.rollout.stopped is None


def test_what_an_interrupted_run_did_not_reach_is_untouched() -> None:
    observed({"a": serving(), "b": serving(), "c": serving()}, rollout_batch=1)
    list(gate.steps())
    outcome.of("a").done = True
    outcome.of("b").at("engine", "restarts Ollama")
    report.note_unreached()
    rows = {name: report.row_of(name, outcome.of(name), True, False, True) for name in "abc"}
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    assert verdicts == {"a": "as wanted", "b": "not finished", "c": "untouched"}
    assert rows["c"]["reason"] == "the run was interrupted before wave 3"


def test_no_wave_begins_without_its_named_canary() -> None:
    runs = observed({"a": serving(), "b": serving(), "c": None}, rollout_canary=("c",))
    list(gate.steps())
    assert play(runs, 0) == ["a"]
    assert not Step(0).open_to(runs["a"])()
    assert "rollout_canary" in str(outcome.of("b").untouched)
    assert any("no wave would begin" in line for line in wave_lines(report._rollout()))


def test_a_proof_that_is_only_too_old_waits_in_no_wave() -> None:
    runs = observed({"a": serving()})
    found = outcome.of("a")
    found.pending, found.settings = ["verify: asks", "    a command", "verify: writes"], "s1"
    probe = serving(state={"verified": {"settings": "s1"}})
    assert gate._only_proof(found, HostRun(runs["a"].host, Settings(), probe))
    found.settings = "s2"  # another answer is expected: that is a change
    assert not gate._only_proof(found, HostRun(runs["a"].host, Settings(), probe))
    found.settings, found.pending = "s1", ["engine: restarts Ollama", "verify: asks"]
    assert not gate._only_proof(found, HostRun(runs["a"].host, Settings(), probe))
    found.settings, found.pending = None, ["verify: asks"]
    assert not gate._only_proof(found, HostRun(runs["a"].host, Settings(), serving()))


def test_settings_of_the_run_itself_are_no_part_of_the_target() -> None:
    plain = gate._target(Settings())
    assert gate._target(Settings(rollout_batch=1, steal=True, report="x")) == plain
    assert gate._target(Settings(tag="7b")) != plain


def test_what_each_host_has_of_its_own_asks_for_no_canary_of_its_own() -> None:
    """Debian 12 and 13 have different keyrings: one canary stands for hosts of both."""
    own = Settings(driver_keyring_sha256="a" * 64, gateway_name="gpu1.example.org")
    assert gate._target(own) == gate._target(Settings())
    entered = Settings(sudo_password="env:R1_SUDO_GPU1")
    assert gate._target(entered) == gate._target(Settings())


def test_a_newer_schema_is_refused_before_any_change() -> None:
    from r1fleet import rollout  # noqa: PLC0415

    newer = '{"schema": 2, "run": "1", "who": 5}'
    for probe, name in (
        (serving(state={"schema": 2}), "state.json"),
        (serving(lease=(newer, "2026")), "lease.json"),
    ):
        runs = observed({"a": probe})
        assert lease.holder(probe) is None
        steps, refusal = rollout.preview(runs["a"])
        assert steps == []
        assert name in str(refusal)
        assert "update r1fleet" in str(refusal)


def test_a_connection_that_breaks_is_counted_apart(tmp_path: Path) -> None:
    class Gone(FakeHost):
        def run_shell_command(self, *_: Any, **__: Any) -> Any:
            raise OSError("Socket is closed")

    assert not Gone(tmp_path, "a").play([step("stage", "does it", "true", "fix")])
    assert outcome.of("a").ending == "lost"
    assert not FakeHost(tmp_path, "b").play([step("stage", "does it", "false", "fix")])
    assert outcome.of("b").ending == "failed"
