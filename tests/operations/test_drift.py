"""Each kind of drift gets its name, from the probe and from what a run would do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import outcome, paths, rollout
from r1fleet.drift import Drift, find
from r1fleet.fleet import HostRun
from r1fleet.gateway import wanted as gateway_wanted
from r1fleet.gateway.pool import pool_id
from r1fleet.hostfacts import Gateway, LoadedModel, Probe, Unit
from r1fleet.settings import Settings
from tests.unit.build import BARE_DRIVER, RUNNING, bare
from tests.unit.served import BLOB, DIGEST, NAME, PATH, choice_of, served


@pytest.fixture(autouse=True)
def fresh_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})


def drift_of(probe: Probe, **settings: Any) -> tuple[Drift, ...]:
    host: Any = SimpleNamespace(name="h", data={}, state=SimpleNamespace(is_executing=False))
    run = HostRun(host, Settings(**settings), probe)
    steps, _ = rollout.preview(run)
    return find(run.settings, probe, choice_of(probe), steps, datetime.now(UTC))


def only(probe: Probe, **settings: Any) -> tuple[str, str]:
    (item,) = drift_of(probe, **settings)
    return item.kind, item.what


def unit(name: str, **changes: Any) -> Probe:
    probe = served()
    return replace(probe, units={**probe.units, name: replace(probe.unit(name), **changes)})


def files(path: str, digest: str | None) -> Probe:
    probe = served()
    kept = {name: value for name, value in probe.files.items() if name != path}
    return replace(probe, files=kept | ({path: digest} if digest else {}))


def store(**changes: Any) -> Probe:
    probe = served()
    return replace(probe, models=replace(probe.models, **changes))


def loaded(**changes: Any) -> Probe:
    probe = served()
    return replace(probe, loaded=(replace(probe.loaded[0], **changes),))


def test_a_host_as_wanted_has_none() -> None:
    assert drift_of(served()) == ()


def test_of_a_host_that_is_only_a_mirror_no_model_is_wanted() -> None:
    idle = unit("ollama.service", active="inactive")
    idle.units.pop("r1fleet-watch.timer")
    idle = replace(idle, files={p: d for p, d in idle.files.items() if "watch" not in p})
    assert drift_of(replace(idle, driver=BARE_DRIVER), serve=False) == ()
    told = find(Settings(serve=False), idle, None, ["mirror: starts the mirror"], datetime.now(UTC))
    assert told == (Drift("step", "a run starts the mirror"),)


def test_a_watch_that_is_stopped_missing_or_no_longer_wanted_is_drift() -> None:
    stopped = unit("r1fleet-watch.timer", active="inactive")
    assert only(stopped) == ("unit", "r1fleet-watch.timer is stopped")
    assert only(served(), watch=False) == ("step", "a run takes the watch away")
    assert only(files(paths.WATCH, None)) == ("file", f"{paths.WATCH} is missing")
    assert only(served(), watch_interval_s=60)[1] == (
        f"{paths.WATCH_TIMER} is not as r1fleet writes it"
    )


def test_an_edited_and_a_missing_file_are_named() -> None:
    kind, what = only(files(paths.ENGINE_UNIT, "0" * 64))
    assert (kind, what) == ("unit file", f"{paths.ENGINE_UNIT} is not as r1fleet writes it")
    assert only(files(paths.ENGINE_ENV, "0" * 64))[0] == "environment file"
    assert only(files(paths.PRELOAD, None)) == ("file", f"{paths.PRELOAD} is missing")


def test_another_engine_and_one_that_does_not_answer() -> None:
    kind, what = only(replace(served(), engine_current="0.30.0-abc"))
    assert kind == "engine"
    assert "Ollama 0.30.0-abc is live" in what
    assert Settings().engine_version in what
    found = drift_of(replace(served(), engine_version=None, loaded=()))
    assert ("engine", "Ollama runs and does not answer") in [(i.kind, i.what) for i in found]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"enabled": False}, "ollama.service is disabled"),
        ({"needs_reload": True}, "systemd has not read it again"),
        ({"active": "failed", "result": "exit-code"}, "is failed, its last result is exit-code"),
        ({"active": "inactive"}, "ollama.service is stopped"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be(changes: dict[str, Any], told: str) -> None:
    found = drift_of(unit("ollama.service", **changes))
    assert any(item.kind == "unit" and told in item.what for item in found)


def test_the_preload_unit_counts_too() -> None:
    kind, what = only(unit("r1fleet-preload.service", enabled=False))
    assert (kind, what.split()[0]) == ("unit", "r1fleet-preload.service")


def test_a_missing_model() -> None:
    found = drift_of(store(manifests={}, blobs={}))
    kinds = {item.kind: item.what for item in found}
    assert kinds["model"] == f"{NAME} is not in /var/lib/ollama/models"


def test_a_blob_of_the_wrong_size_and_a_missing_one() -> None:
    kind, what = only(store(blobs={f"sha256-{BLOB}": 3}))
    assert kind == "blob"
    assert what.endswith("has 3 bytes instead of 1000")
    assert only(store(blobs={}))[1].endswith("is missing")


def test_another_digest_under_the_tag() -> None:
    probe = store(manifests={PATH: "d8" * 32})
    told = {item.kind: item.what for item in drift_of(probe)}
    assert told["digest"] == f"{NAME} is {'d8' * 6}, proven is {DIGEST[:12]}"
    pinned = drift_of(probe, model_digests={NAME: f"sha256:{DIGEST}"})
    assert any("pinned is" in item.what for item in pinned)


def test_a_model_that_is_not_loaded() -> None:
    assert only(replace(served(), loaded=())) == ("memory", f"{NAME} is not loaded")


def test_a_model_that_spilled_to_the_cpu() -> None:
    kind, what = only(loaded(size_vram_bytes=5 * 10**9))
    assert kind == "residency"
    assert "50 % of the model" in what


def test_a_context_that_another_client_asked_for() -> None:
    kind, what = only(loaded(context=2048))
    assert kind == "context"
    assert "2048" in what


def test_a_drop_in_is_shown_with_its_file() -> None:
    path = "/etc/systemd/system/ollama.service.d/mine.conf"
    assert only(replace(served(), dropins=(path,))) == (
        "drop-in",
        f"{path} is not r1fleet's, a run leaves it",
    )


def test_a_damaged_state() -> None:
    found = drift_of(replace(served(), state={}, state_is_damaged=True))
    assert [item.kind for item in found] == ["state"]


def test_state_of_any_shape_is_no_reason_to_crash() -> None:
    for state in ({"models": []}, {"models": {NAME: 3}}, {"verified": []}, {"decision": "x"}):
        assert drift_of(replace(served(), state=state))


def test_a_driver_that_is_not_loaded_and_another_branch() -> None:
    probe = served()
    off = replace(probe, driver=replace(probe.driver, loaded=None, gpus=(), smi_rc=9))
    told = {item.kind: item.what for item in drift_of(off)}
    assert told["driver"] == "the driver is installed but not loaded"
    told = {item.kind: item.what for item in drift_of(probe, driver_branch=570)}
    assert told["driver"] == "branch 580 is installed, 570 is asked for"


def test_a_hold_that_is_gone() -> None:
    probe = replace(served(), packages={"nvidia-driver-cuda": "580.178.04-1"})
    told = {item.kind: item.what for item in drift_of(probe, driver_hold=True)}
    assert told["hold"] == "the driver's packages are not held"


def test_a_restart_that_is_due() -> None:
    assert only(replace(served(), restart_pending=True))[0] == "restart"


def test_an_old_proof_is_told_by_its_age() -> None:
    probe = served()
    old = (datetime.now(UTC) - timedelta(hours=30)).isoformat()
    verified = {**probe.state["verified"], "at": old}
    kind, what = only(replace(probe, state={**probe.state, "verified": verified}))
    assert kind == "proof"
    assert what.startswith("was last proven 30 h ago")


def test_what_has_no_name_is_told_as_the_step_of_a_run() -> None:
    probe = served()
    found = drift_of(replace(probe, models=replace(probe.models, owner="root:root")))
    assert [(item.kind, item.what) for item in found] == [
        ("step", "a run makes the model directory /var/lib/ollama/models")
    ]


def test_a_host_without_r1fleet_is_one_line() -> None:
    """Before the first run, and after a removal with models that stay."""
    stays = replace(served(), state={}, engine_current=None, files={}, units={}, loaded=())
    for probe in (bare("T4", driver=BARE_DRIVER), stays):
        assert [item.kind for item in drift_of(probe)] == ["absent"]


def test_what_is_lost_of_a_deployed_host_is_named_each() -> None:
    lost = bare("T4", driver=BARE_DRIVER, state={"models": {}})
    kinds = {item.kind for item in drift_of(lost)}
    assert kinds >= {"driver", "engine", "unit file", "environment file", "model"}


def test_an_unrelated_loaded_model_is_no_drift() -> None:
    probe = served()
    other = LoadedModel("llama3:8b", "ee" * 32, 10, 10, 2048)
    assert drift_of(replace(probe, loaded=(*probe.loaded, other))) == ()


def test_a_unit_whose_file_is_missing_is_told_once() -> None:
    probe = files(paths.ENGINE_UNIT, None)
    gone = replace(probe, units={**probe.units, "ollama.service": Unit()})
    kinds = [item.kind for item in drift_of(gone)]
    assert kinds.count("unit file") == 1
    assert "unit" not in kinds


def gateway(**changes: Any) -> Probe:
    """A host with a gateway as wanted, but for what is named."""
    settings = Settings(expose="gateway", gateway_tokens="env:R1_TEST_STORE")
    want = gateway_wanted.gateway(settings, settings.gateway_store, "h", "h", "x86_64")
    probe = served()
    found = Gateway(
        current=want.archive.key,
        versions=frozenset({want.archive.key}),
        pools=frozenset({pool_id(DIGEST, choice_of(probe).context)}),
    )
    files = {file.path: file.sha256 for file in (*want.files, want.unit)}
    units = {**probe.units, gateway_wanted.UNIT: replace(RUNNING, **changes.pop("unit", {}))}
    return replace(probe, files=probe.files | files, units=units, gateway=replace(found, **changes))


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("R1_TEST_STORE", f"key {'k' * 43}\n")
    return {"expose": "gateway", "gateway_tokens": "env:R1_TEST_STORE"}


def test_a_gateway_that_is_not_as_wanted(tokens: dict[str, str]) -> None:
    kinds = {item.kind for item in drift_of(gateway(), **tokens)}
    assert kinds == {"proof"}  # it was never tried who reaches it
    edited = gateway()
    edited.files[paths.GATEWAY_TOKENS] = "0" * 64
    assert ("file", f"{paths.GATEWAY_TOKENS} is not as r1fleet writes it") in [
        (item.kind, item.what) for item in drift_of(edited, **tokens)
    ]
    (stopped, *_) = drift_of(gateway(unit={"active": "inactive"}), **tokens)
    assert stopped.what == "r1fleet-gateway.service is stopped"
    (held, *_) = drift_of(gateway(drained=True), **tokens)
    assert (held.kind, "keeps requests away" in held.what) == ("gateway", True)


def test_a_gateway_that_nobody_wants(tokens: dict[str, str]) -> None:
    assert only(gateway()) == ("gateway", "r1fleet-gateway.service is there and not wanted")
