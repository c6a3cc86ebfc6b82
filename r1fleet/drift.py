"""In what a host differs from what is wanted of it, item by item: pure.

What a run would change is known by its steps (rollout.preview); here the things themselves get
their names, from the probe. What no item names is shown as the step that a run would do.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from r1fleet import decide, paths
from r1fleet.alias import wanted as alias
from r1fleet.driver.plan import only_holds
from r1fleet.driver.plan import plan as plan_driver
from r1fleet.gateway.wanted import UNIT
from r1fleet.hostfacts import LoadedModel, Probe, Unit
from r1fleet.model import manifest
from r1fleet.model.manifest import ModelWanted
from r1fleet.settings import Settings
from r1fleet.sizing import Choice
from r1fleet.verify.fingerprint import remembered
from r1fleet.verify.judge import check_loaded, needs_load
from r1fleet.words import age, short

FILE_KINDS = {
    paths.ENGINE_UNIT: "unit file",
    paths.ENGINE_HARDENING: "hardening",
    paths.ENGINE_ENV: "environment file",
}
# Steps that follow from others: alone they are told, beside the thing itself they are noise.
FOLLOWING = ("sizing", "model", "verify", "drain", "golden", "mirror", "lock")
ABSENT = (
    "absent",
    "r1fleet is not on it: deploy.py sets it up; if it was removed, take it out of the inventory",
)
NOTE = "notes that a restart must follow"


@dataclass(frozen=True)
class Drift:
    """One thing that is not as wanted: its kind, for programs, and what it is, for people.

    + stage: the stage of a run whose steps it explains, "" for none
    """

    kind: str
    what: str
    stage: str = ""


def find(
    settings: Settings, probe: Probe, choice: Choice | None, steps: Sequence[str], now: datetime
) -> tuple[Drift, ...]:
    """Everything in which a host differs.

    + choice: the size that is wanted; None when nothing fits
    + steps: what a run would do, from rollout.preview
    """
    if settings.serve and not (
        probe.state or probe.engine_current or paths.ENGINE_UNIT in probe.files
    ):
        return (Drift(*ABSENT),)
    own = [step for step in steps if not step.startswith(" ") and not step.endswith(NOTE)]
    if not settings.serve:  # of what else is there nothing is wanted
        files = (*_files(probe, own), *(_gateway(settings, probe) if probe.gateway.knows else ()))
        return files or tuple(Drift("step", f"a run {step.partition(': ')[2]}") for step in own)
    items = [
        *_driver(settings, probe),
        *_engine(probe, own),
        *_files(probe, own),
        *(Drift("drop-in", f"{path} is not r1fleet's, a run leaves it") for path in probe.dropins),
        *_units(probe),
        *_gateway(settings, probe),
        *(_models(settings, probe, choice) if choice else ()),
        *(_loaded(settings, probe, choice) if choice else ()),
        *_state(probe),
        *_alias(settings, probe, own),
    ]
    items += _unnamed(items, own)
    return tuple(items or _proof(probe, own, now))


def _driver(settings: Settings, probe: Probe) -> Iterator[Drift]:
    plan = plan_driver(probe, settings)
    if plan.action == "change":
        yield Drift("hold" if only_holds(plan) else "driver", plan.reason, "driver")


def _engine(probe: Probe, steps: Iterable[str]) -> Iterator[Drift]:
    unit = probe.unit("ollama.service")
    wanted = next((step.rpartition(" ")[2] for step in steps if ": switches to Ollama" in step), "")
    live = probe.engine_current
    if wanted:
        there = f"Ollama {live} is live" if live else "no engine is installed"
        yield Drift("engine", f"{there}, wanted is {wanted}", "engine")
    elif live and unit.active == "active" and probe.engine_version is None:
        yield Drift("engine", "Ollama runs and does not answer", "engine")
    elif live and probe.engine_version and not live.startswith(probe.engine_version):
        yield Drift("engine", f"Ollama {probe.engine_version} answers, {live} is live", "engine")


def _files(probe: Probe, steps: Iterable[str]) -> Iterator[Drift]:
    for step in steps:
        stage, _, told = step.partition(": ")
        path = told.removeprefix("writes ")
        if path.startswith("/") and path != told:
            is_there = path in probe.files
            what = f"{path} is not as r1fleet writes it" if is_there else f"{path} is missing"
            yield Drift(FILE_KINDS.get(path, "file"), what, stage)


def _units(probe: Probe) -> Iterator[Drift]:
    for name, stage in (
        ("ollama.service", "engine"),
        ("r1fleet-preload.service", "model"),
        ("r1fleet-watch.timer", "watch"),
    ):
        unit = probe.unit(name)
        if unit.load == "not-found":
            continue  # its file is missing, which is told
        yield from (Drift("unit", f"{name} {what}", stage) for what in _unit_faults(unit))
    if probe.restart_pending:
        yield Drift("restart", "files of the engine were changed, its restart is due", "engine")


def _gateway(settings: Settings, probe: Probe) -> Iterator[Drift]:
    unit = probe.unit(UNIT)
    if settings.expose != "gateway" and not probe.gateway.knows:
        if unit.load != "not-found":
            yield Drift("gateway", f"{UNIT} is there and not wanted", "gateway")
        return
    if unit.load != "not-found":
        yield from (Drift("unit", f"{UNIT} {what}", "gateway") for what in _unit_faults(unit))
    if probe.gateway.drained:
        yield Drift("gateway", "it keeps requests away, as in the middle of a change", "gateway")


def _unit_faults(unit: Unit) -> Iterator[str]:
    if unit.active not in ("active", "activating"):
        failed = f", its last result is {unit.result}" if unit.result != "success" else ""
        yield f"is {'failed' if unit.active == 'failed' else 'stopped'}{failed}"
    if not unit.enabled:
        yield "is disabled: it does not start with the host"
    if unit.needs_reload:
        yield "was changed, and systemd has not read it again"


def _models(settings: Settings, probe: Probe, choice: Choice) -> Iterator[Drift]:
    wanted = (decide.model_wanted(settings, choice), *decide.extras_wanted(settings, choice))
    for want in wanted:
        yield from _model(want, probe)


def _model(want: ModelWanted, probe: Probe) -> Iterator[Drift]:
    found = probe.models.manifests.get(want.manifest_path)
    if found is None:
        yield Drift("model", f"{want.name} is not in {want.models_dir}", "pull")
        return
    proven, here = _recorded_digest(probe, want.name), f"sha256:{found}"
    expected, word = (want.digest, "pinned") if want.digest else (proven, "proven")
    if expected and expected != here:
        what = f"{want.name} is {short(here)}, {word} is {short(expected)}"
        yield Drift("digest", what, "pull")
    known = manifest.recorded(probe.state, want.name, here)
    for blob in manifest.missing(known, probe.models.blobs) if known else ():
        size = probe.models.blobs.get(blob.file_name)
        fault = "is missing" if size is None else f"has {size} bytes instead of {blob.size_bytes}"
        yield Drift("blob", f"blob {blob.file_name[:19]} of {want.name} {fault}", "pull")


def _recorded_digest(probe: Probe, name: str) -> str | None:
    models = probe.state.get("models")
    entry = models.get(name) if isinstance(models, dict) else None
    digest = entry.get("digest") if isinstance(entry, dict) else None
    return digest if isinstance(digest, str) else None


def _loaded(settings: Settings, probe: Probe, choice: Choice) -> Iterator[Drift]:
    want = decide.model_wanted(settings, choice)
    found = probe.models.manifests.get(want.manifest_path)
    if found is None or probe.engine_version is None:
        return
    same = _same_weights(probe, want.name, found)
    if needs_load(probe, found, settings.ollama_keep_alive, same):
        yield Drift("memory", f"{want.name} is not loaded", "model")
    if fault := check_loaded(probe, found, choice.placement, same):
        yield Drift("residency", fault.what, "verify")
    row = loaded_row(probe, found, same)
    if row and row.context not in (None, choice.context):
        what = f"{want.name} has a context of {row.context} tokens, planned are {choice.context}"
        yield Drift("context", what)


def _same_weights(probe: Probe, name: str, digest: str) -> frozenset[str]:
    """Other names' digests by which the weights of a model may have been loaded."""
    known = manifest.recorded(probe.state, name, f"sha256:{digest}")
    return alias.same_weights(probe.state, alias.weights(known.blobs)) if known else frozenset()


def _state(probe: Probe) -> Iterator[Drift]:
    if probe.state_is_damaged:
        # What it knew of the models is looked up anew.
        yield Drift("state", f"{paths.STATE_FILE} is damaged", "pull")


def _alias(settings: Settings, probe: Probe, steps: Iterable[str]) -> Iterator[Drift]:
    """The name that clients ask for, where a run would do something about it."""
    name = settings.alias
    if not any(step.startswith("alias: ") for step in steps) or probe.state_is_damaged:
        return
    if name is None:
        yield Drift("alias", "an alias is there that is no longer wanted", "alias")
    elif manifest.manifest_path(name) not in probe.models.manifests:
        yield Drift("alias", f"{name} is missing", "alias")
    else:
        yield Drift("alias", f"{name} is not as recorded for what is served", "alias")


def _unnamed(items: Iterable[Drift], steps: Iterable[str]) -> list[Drift]:
    """Steps of stages that no item explains."""
    explained = {item.stage for item in items}
    if any(item.kind == "state" for item in items):
        explained.add("alias")  # what it knew of the alias is found out again
    stages = [step.partition(":")[0] for step in steps]
    return [
        Drift("step", f"a run {step.partition(': ')[2] or step}", stage)
        for step, stage in zip(steps, stages, strict=True)
        if stage not in explained and stage not in FOLLOWING
    ]


def _proof(probe: Probe, steps: Iterable[str], now: datetime) -> Iterator[Drift]:
    """Nothing differs but that the host must prove itself again, or be loaded again for it."""
    asks = [step for step in steps if step.startswith("verify: ")]
    if asks:
        proven, seconds = remembered(probe.state), proof_age_s(probe, now)
        when = "was never proven" if proven is None else f"was last proven {_ago(seconds)}"
        yield Drift(
            "proof", f"{when}; its age, a restart or a setting asks for a new one", "verify"
        )
        return
    yield from (Drift("step", f"a run {step.partition(': ')[2]}") for step in steps)


def loaded_row(probe: Probe, digest: str, same: Collection[str] = ()) -> LoadedModel | None:
    """The loaded model of a manifest digest (64 hex), or of one with the same weights."""
    return next((row for row in probe.loaded if row.digest in {digest, *same}), None)


def proof_age_s(probe: Probe, now: datetime) -> float | None:
    """Seconds since the last proof; None when there was none."""
    proven = remembered(probe.state)
    try:
        return (now - datetime.fromisoformat(str(proven.at))).total_seconds() if proven else None
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return None


def _ago(age_s: float | None) -> str:
    return "at an unknown time" if age_s is None else f"{age(age_s)} ago"
