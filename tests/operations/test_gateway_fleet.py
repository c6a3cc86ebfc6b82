"""What a fleet gateway is told in a run, and what becomes of a rollout when it fails."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import Inventory

from r1fleet import fleet, gate, outcome, report, rollout, waves
from r1fleet.drain import drain
from r1fleet.fleet import HostRun
from r1fleet.gate import Step
from r1fleet.gateway import balance, stage, stands, wanted
from r1fleet.gateway import fleet as made
from r1fleet.gateway.pool import HEALTH_INTERVAL_S, Route, pool_id
from r1fleet.hostfacts import Gateway, LoadedModel, Probe
from r1fleet.remote import title
from r1fleet.settings import Settings, SettingsError
from r1fleet.waves import Wave
from tests.operations import fakehost
from tests.unit.build import RUNNING, bare, working

STORE = f"key {'k' * 43}\nann use r1f_{'a' * 43}\n"
DIGESTS = {"deepseek-r1:14b": f"sha256:{'a' * 64}"}
ROOT = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
CONTEXT = 29696
POOL = pool_id("a" * 64, CONTEXT)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(outcome, "rollout", outcome.Rollout())
    monkeypatch.setattr(fleet, "_fleet", fleet._Fleet())


def serving(**changes: Any) -> Probe:
    gateway = Gateway(pools=frozenset({POOL}), root=ROOT)
    return bare("T4", driver=working("T4"), gateway=gateway, **changes)


@pytest.fixture
def observe(tmp_path: Path) -> Any:
    """observe(name=probe, ...): a fleet of these hosts and the gateway `gw`, as a run sees it."""
    store = tmp_path / "tokens"
    store.write_text(STORE)
    store.chmod(0o600)

    def do(inventory: tuple[str, ...] = (), expose: Any = "gateway", **probes: Any) -> HostRun:
        names = {"gw", *probes, *inventory}
        whole = [SimpleNamespace(name=name) for name in names]
        state: Any = SimpleNamespace(is_executing=True, inventory=whole)
        gateway = probes.pop("gw", bare())
        settings = Settings(
            expose=expose, gateway_tokens=f"file:{store}", model_digests=DIGESTS, tag="14b"
        )
        for name, probe in {**probes, "gw": gateway}.items():
            data = {"ssh_hostname": f"{name}.example"}
            host: Any = SimpleNamespace(name=name, state=state, data=data, groups=[])
            own = settings.model_copy(update={"serve": False}) if name == "gw" else settings
            fleet._fleet.runs[name] = HostRun(host, own, probe, balancers=("gw",))
        return fleet._fleet.runs["gw"]

    return do


def titles(run: HostRun) -> list[str]:
    assert run.probe
    return [title(command) for command in balance.stage(run, run.probe)]


def told(run: HostRun) -> Probe:
    """The gateway's host, once it has what it should have."""
    runs = fleet.everyone()
    behind = stands.known(run, runs)
    routes = balance.pool.routes(behind, mixed=False)
    want = made.gateway(
        run.settings,
        run.settings.gateway_store,
        run.address,
        "x86_64",
        behind,
        routes,
    )
    return bare(
        files={file.path: file.sha256 for file in (*want.files, want.unit)},
        units={wanted.UNIT: RUNNING},
        gateway=Gateway(
            current=want.archive.key,
            versions=frozenset({want.archive.key}),
            knows=made.knows(behind, routes),
        ),
    )


def test_the_hosts_of_the_run_are_behind_it_and_a_second_run_sends_nothing(observe: Any) -> None:
    run = observe(a=serving(), b=serving())
    assert [one.address for one in stands.known(run, fleet.everyone())] == [
        "a.example:11443",
        "b.example:11443",
    ]
    assert {(one.now, one.soon) for one in stands.known(run, fleet.everyone())} == {(POOL, POOL)}
    assert "gateway: opens the gateway" in titles(run)
    run.probe = told(run)
    assert titles(run) == []


def test_who_is_silent_stays_and_who_left_the_inventory_goes(observe: Any) -> None:
    """A host without an answer, one beyond the limit, one that is no longer there."""
    run = observe(silent=serving(), beyond=serving(), gone=serving(), a=serving())
    probe = told(run)
    before = stands.known(run, fleet.everyone())
    fleet._fleet.runs.clear()
    run = observe(inventory=("beyond",), silent=None, a=serving(), gw=probe)
    after = stands.known(run, fleet.everyone())
    assert [one.name for one in after] == ["a", "beyond", "silent"]
    assert set(after) < set(before)
    assert "gateway: writes /etc/r1fleet/gateway/Caddyfile" in titles(run)


def test_a_host_that_is_no_longer_shared_goes(observe: Any) -> None:
    run = observe(a=serving(), b=serving())
    run.probe = told(run)
    local = fleet.everyone()["b"]
    local.settings = local.settings.model_copy(update={"expose": "local"})
    assert [one.name for one in stands.known(run, fleet.everyone())] == ["a"]


def test_without_any_shared_host_there_is_no_gateway(observe: Any) -> None:
    run = observe(a=serving(), expose="local")
    assert titles(run) == []
    assert outcome.of("gw").warnings == ["no host of the fleet has expose: gateway"]
    run.probe = bare(gateway=Gateway(versions=frozenset({"2.11.9"})))
    assert titles(run) == ["gateway: closes and removes the gateway"]


def test_bare_hosts_are_waited_for(observe: Any) -> None:
    assert titles(observe(a=bare("T4"))) == []


def test_hosts_whose_tls_differs_are_not_behind_one_gateway(observe: Any) -> None:
    run = observe(a=serving(), b=serving())
    other = fleet.everyone()["b"]
    other.settings = other.settings.model_copy(update={"gateway_tls": "acme"})
    assert run.probe
    refusal = next(balance.stage(run, run.probe))
    assert refusal.args[1] == "the hosts behind it have gateway_tls acme and internal"


def test_a_gateway_that_serves_a_model_has_none_before_its_own_engine() -> None:
    hosts = [("gw", {}), ("a", {})]
    inventory = Inventory((hosts, {}), gateway=(["gw"], {}))
    settings = {"gw": Settings(expose="gateway"), "a": Settings(expose="gateway")}
    with pytest.raises(SettingsError, match=r"gw: expose: .* serve: False"):
        fleet.balancers(list(inventory), settings)
    settings["gw"] = Settings(expose="gateway", serve=False)
    assert fleet.balancers(list(inventory), settings) == ("gw",)


def test_between_waves_it_is_told_of_the_hosts_as_they_are(
    observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = observe(a=serving(), b=serving())
    outcome.rollout.plan = waves.Plan((), (Wave(1, ("a",), canary=True), Wave(2, ("b",))))
    seen: list[tuple[str, ...]] = []

    def again(run: HostRun, leaving: tuple[str, ...] = ()) -> list[Any]:
        seen.append(leaving)
        return []

    monkeypatch.setattr(balance, "again", again)
    for number in (0, 1):
        list(gate.gate._inner(run, Step(number)))
        list(gate.gate._inner(fleet.everyone()["a"], Step(number)))
    assert seen == [("b",)]  # before the first wave it is told in its own converge


def test_other_pools_are_seen_before_anything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that left before that took the last one that the gateway knew of with it."""
    monkeypatch.setattr(fakehost, "MOVED", (*fakehost.MOVED, "/etc/r1fleet"))
    host = fakehost.FakeHost(tmp_path, "gw")
    host.tool("chown", "#!/bin/sh\n")
    host.tool("sleep", '#!/bin/sh\necho "$1" >>"$ROOT/slept"\n')
    slept = tmp_path / "slept"
    routes = [Route("14b", (POOL, "b" * 12), ("a.example:11443",))]
    assert host.play([balance._tell(routes, "{}\n")])
    assert float(slept.read_text()) >= 2 * HEALTH_INTERVAL_S
    slept.unlink()
    assert host.play([balance._tell(routes, '{"hosts": []}\n')])
    assert not slept.exists()
    assert host.play([balance._tell([replace(routes[0], pools=("b" * 12, POOL))], "{}\n")])
    assert slept.exists()
    assert host.at("/etc/r1fleet/gateway/slots/14b-1").read_text() == f"{'b' * 12}\n"


def test_a_gateway_that_failed_stops_the_rollout(observe: Any) -> None:
    observe(a=serving(), b=serving())
    runs = fleet.everyone()
    outcome.rollout.plan = waves.Plan((), (Wave(1, ("a",), canary=True), Wave(2, ("b",))))
    outcome.of("a").done = True
    assert Step(1).open_to(runs["b"])()
    outcome.of("gw").failure = "gateway: no space"
    assert not Step(1).open_to(runs["b"])()
    assert outcome.rollout.stopped == (
        "the rollout was stopped after wave 1 (canaries): the fleet gateway gw failed"
    )
    assert outcome.of("b").untouched == outcome.rollout.stopped
    assert outcome.of("a").untouched is None


def test_its_own_stage_stands_before_all_that_serves(observe: Any) -> None:
    run = observe(a=serving())
    steps, refusal = rollout.preview(run)
    assert refusal is None
    assert steps[0] == "gateway: downloads and checks Caddy 2.11.9"
    assert steps[-1] == "gateway: opens the gateway"
    run = replace(run, balancers=())
    assert rollout.preview(run) == ([], None)


def test_one_that_serves_a_model_as_well_keeps_its_gateway(observe: Any) -> None:
    run = observe(a=serving())
    probe = replace(told(run), loaded=(LoadedModel("x", "ab" * 32, 1, 1, 4096),))
    both = replace(run, settings=run.settings.model_copy(update={"expose": "local"}))
    assert list(stage.prepare(both, probe)) == []
    alone = replace(both, balancers=())
    assert [title(one) for one in stage.prepare(alone, probe)] == [
        "gateway: closes and removes the gateway"
    ]
    # What it refuses would be refused for the whole fleet.
    assert "holds new requests back" not in str([title(one) for one in drain._inner(probe, 60)])


def test_a_bare_host_gets_the_programs_that_fetch_it(observe: Any) -> None:
    run = observe(a=serving(), gw=bare(tools=frozenset({"apt-get", "tar", "systemd-run"})))
    assert titles(run)[0] == "tools: installs curl"


def test_the_report_names_the_address_of_all() -> None:
    host: Any = SimpleNamespace(data={"ssh_hostname": "10.0.0.9"}, groups=["gateway"])
    state: Any = SimpleNamespace(inventory=SimpleNamespace(get_host=lambda _: host))
    found = report._reached_at(state, "gw", Settings(serve=False))
    assert found == {"expose": "gateway", "url": "https://10.0.0.9:11443"}
