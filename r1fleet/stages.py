"""The stages of a host, each a generator of commands; rollout.py has their order."""

from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pyinfra.api import FunctionCommand

from r1fleet import decide, handover, holes, outcome, paths, sticky, tags
from r1fleet.adopt import install as adopt
from r1fleet.adopt.plan import plan as plan_adoption
from r1fleet.alias import wanted as alias
from r1fleet.bundle import contents, needs, send
from r1fleet.drain import drain
from r1fleet.driver import install as driver
from r1fleet.driver.health import warnings as driver_warnings
from r1fleet.driver.plan import DriverPlan, only_holds
from r1fleet.driver.plan import plan as plan_driver
from r1fleet.driver.strangers import to_stop
from r1fleet.engine import install as engine
from r1fleet.engine import tryon, wanted
from r1fleet.fleet import HostRun
from r1fleet.golden import play as golden
from r1fleet.golden.play import Game
from r1fleet.hostfacts import Probe
from r1fleet.mirror import install as mirror
from r1fleet.mirror import source
from r1fleet.model import move, prune, pull
from r1fleet.model.manifest import ModelWanted, state_entry
from r1fleet.remote import changed, fail, warn
from r1fleet.sizing import Choice, Sizing, policy
from r1fleet.verify import extras as beside
from r1fleet.verify import smoke
from r1fleet.verify.fingerprint import (
    fingerprint,
    is_fresh,
    remembered,
    settings_stamp,
    verified_entry,
)
from r1fleet.verify.fingerprint import state as new_state
from r1fleet.verify.judge import SmokeWanted, check_loaded
from r1fleet.watch import install as watching
from r1fleet.watch.wanted import watch as watch_wanted

Commands = Generator[FunctionCommand, None, None]
Tried = Mapping[str, Any] | None  # what trying a size on gave, as state.json keeps it

MOST_TRIES = 4


def checked(run: HostRun) -> Generator[FunctionCommand, None, Probe]:
    """The first probe, or the refusal of a host on which nothing should be begun."""
    if run.probe is None:
        yield fail("probe", run.trouble, run.fix)
    assert run.probe
    for refusal in decide.refusals(run.settings, run.probe):
        yield fail(*refusal)
    if text := holes.found_warning(engine_of(run.probe), run.settings.engine_version):
        outcome.of(run.host.name).note([text])
    if run.mirror:  # first of all: others wait for it
        yield from mirror.install._inner(run.probe, run.mirror)
        outcome.of(run.host.name).mirrors = not run.rehearsing
    if not run.settings.serve:
        return run.probe
    adoption = plan_adoption(run.probe, run.settings)
    if adoption.refusal:
        yield fail(*adoption.refusal)
    outcome.of(run.host.name).note(list(adoption.told))
    plan = plan_driver(run.probe, run.settings)
    if plan.action == "refuse":
        yield fail("driver", plan.reason, plan.fix, shows=plan.commands)
    if run.settings.bundle:
        lines = needs.lacking(contents.read(run.settings.bundle), run.settings, run.probe, plan)
        if text := ", ".join(lines):
            yield fail("bundle", f"it lacks {text}", needs.FIX)
    return run.probe


def engine_of(probe: Probe) -> str | None:
    """The version of the engine that is there: the one that answers, else the one that is live."""
    return probe.engine_version or (probe.engine_current or "").partition("-")[0] or None


def compare(run: HostRun, probe: Probe) -> Commands:
    """Where a digest is pinned, the registry's is compared with it before anything changes."""
    pinned = run.settings.model_digests
    choice = decide.size(run.settings, probe).sizing.choice if pinned else None
    if choice:
        yield from source.settle._inner(run, probe, choice)
        extras = (run.source.model(want) for want in decide.extras_wanted(run.settings, choice))
        for want in (model_of(run, choice), *extras):
            yield from pull.check._inner(want, move.after(run.settings.ollama_models, probe))


def early_pull(run: HostRun, probe: Probe) -> Commands:
    """Begin to fetch what the PCI ids promise, beside the driver's installation. If the driver
    then tells otherwise, the right one is fetched; a reboot only interrupts it."""
    choice = decide.size(run.settings, probe).sizing.choice
    certain = choice and decide.is_certain(run.settings, probe, choice)
    if choice and certain and choice.placement == "gpu" and not run.rehearsing:
        yield from source.settle._inner(run, probe, choice)
        probe = yield from store(run, probe)
        delivery = pull.Pull(model_of(run, choice))
        yield from tags.keep_side._inner(delivery.want, probe)
        yield from pull.start._inner(delivery, probe)


def model_of(run: HostRun, choice: Choice) -> ModelWanted:
    """The model of a choice, from where this host fetches."""
    return run.source.model(decide.model_wanted(run.settings, choice))


def store(run: HostRun, probe: Probe) -> Generator[FunctionCommand, None, Probe]:
    """The model directory, with what a former one holds; returns the probe after it."""
    new = run.settings.ollama_models
    yield from engine.prepare._inner(probe, new)
    if not run.adopting and (takings := plan_adoption(probe, run.settings).takings):
        yield from adopt.take._inner(takings, probe, new)
        run.adopting = takings  # only now: a plan that is begun and left has taken nothing
        probe = yield from look_again(run, whatever=not run.rehearsing)
    old = move.former(probe.state, new)
    if old is None or run.moved:
        return probe
    yield from move.take_along._inner(old, new)
    if run.rehearsing:
        return move.after(new, probe)
    run.moved, before = True, probe.models.manifests
    probe = yield from look_again(run, whatever=True)
    if count := len(probe.models.manifests) - len(before):
        changed(run.host, f"{count} models from {old}")
    return probe


def driver_proven(
    run: HostRun, probe: Probe, plan: DriverPlan
) -> Generator[FunctionCommand, None, Probe]:
    """The driver stage; returns the probe after it."""
    settings = run.settings
    outcome.of(run.host.name).note([plan.warning] if plan.warning else [])
    yield from driver.install._inner(probe, plan, settings)
    if plan.action == "change" and not run.rehearsing:
        stopped = to_stop(probe, settings.driver_stop_others).values()
        serving = bool(probe.loaded)
        probe = yield from look_again(run)
        if not only_holds(plan):
            yield from drain._inner(probe, settings.drain_timeout_s)
        yield from driver.activate._inner(probe, plan, set(stopped))
        probe = yield from look_again(run)
        yield from driver.restart._inner(probe, plan, settings, serving)
        probe = yield from look_again(run)
        yield from driver.prove._inner(probe, settings)
    outcome.of(run.host.name).note(driver_warnings(probe))
    return probe


def size(run: HostRun, probe: Probe) -> Generator[FunctionCommand, None, Sizing]:
    """The size that fits, now that the VRAM is known; fails a host that none fits."""
    decision = decide.size(run.settings, probe)
    found, sizing = outcome.of(run.host.name), decision.sizing
    found.sizing, found.kept_over, found.notes = sizing, decision.kept_over, list(decision.notes)
    if sizing.choice is None:
        yield fail("sizing", sizing.refusal or "no model fits", "")
    return sizing


def try_on(
    run: HostRun, probe: Probe, sizing: Sizing
) -> Generator[FunctionCommand, None, tuple[Sizing, Tried]]:
    """The size that llama.cpp itself finds room for on these cards, and what it said; asked once
    for each choice, before anything large is pulled."""
    if tried := sticky.tried(probe.state, sizing.chosen):
        return sizing, tried
    settings, less_mib = run.settings, 0
    key = wanted.archive_for(settings, sizing.chosen, probe).key
    library = f"{paths.ENGINE_ROOT}/{key}/lib/ollama"
    for _ in range(MOST_TRIES):
        trial = tryon.prepare(sizing, policy(settings), probe)
        if trial is None:
            return sizing, None
        yield from tryon.try_on._inner(trial, library)
        if not trial.excess_mib:
            return sizing, {"projected_mib": trial.projected_mib}
        less_mib += trial.excess_mib
        sizing = decide.smaller(settings, probe, less_mib)
        outcome.of(run.host.name).sizing = sizing
        if sizing.choice is None:
            yield fail("sizing", sizing.refusal or "no model fits", "")
    yield fail(
        "sizing", f"llama.cpp found no room in {MOST_TRIES} tries", "set tag to a smaller one"
    )
    return sizing, None


def extras(
    run: HostRun, probe: Probe, sizing: Sizing
) -> Generator[FunctionCommand, None, tuple[pull.Pull, ...]]:
    """Deliver the models beside R1, one after the other: a host has one unit that fetches."""
    wanted_here = decide.extras_wanted(run.settings, sizing.chosen)
    deliveries = tuple(pull.Pull(run.source.model(want)) for want in wanted_here)
    for delivery in deliveries:
        yield from pull.start._inner(delivery, probe)
        yield from pull.finish._inner(delivery)
    return deliveries


def verify(
    run: HostRun,
    probe: Probe,
    proof: SmokeWanted,
    sizing: Sizing,
    tried: Tried,
    pulls: tuple[pull.Pull, ...],
    game: Game | None,
) -> Generator[FunctionCommand, None, Mapping[str, Any]]:
    """Proof that the host serves from where it should; asked again only when something changed
    or the last proof is too old. What a loaded model shows of itself is looked at every time.
    Returns state.json as it is then."""
    choice = sizing.chosen
    extras = tuple(
        decide.extra_wanted(run.settings, choice, one.want.name, one.digest) for one in pulls[1:]
    )
    stamp = fingerprint(probe, proof, extras)
    fresh = is_fresh(probe.state, stamp, datetime.now(UTC), run.settings.verify_max_age_s)
    stands = fresh and not any(one.placed for one in pulls)
    digests = {proof.model: proof.digest} | {extra.model: extra.digest for extra in extras}
    for model, digest in digests.items():
        same = proof.same_weights if digest == proof.digest else ()
        if fault := check_loaded(probe, digest, proof.placement, same, processes=stands):
            yield fail(model, fault.what, fault.fix)
    if run.host.state.is_executing and not run.rehearsing:
        for text in tryon.disagreements(probe, proof.digest, choice, tried):
            warn(run.host, text)
    found = outcome.of(run.host.name)
    found.settings = settings_stamp(probe, proof, extras)
    verified = probe.state.get("verified")
    found.smoke = remembered(probe.state)
    if not stands:
        found.smoke = None
        yield from smoke.smoke._inner(proof)
        yield from beside.extras._inner(proof, extras)
        if game:
            yield from golden.new._inner(game, proof)
        verified = None
        if found.smoke:
            verified = verified_entry(found.smoke, stamp, proof.model, found.settings)
    yield from adopt.leave._inner(run.adopting, run.settings.ollama_models)
    models = {
        one.want.name: state_entry(one.installed)
        | {"brought": tags.was_brought(probe.state, found.brought, one.want.name, one.digest)}
        for one in pulls
        if one.installed
    }
    mount = (run.settings.ollama_models, probe.models.mount)
    record = sticky.record(sizing, policy(run.settings), tried)
    state_with = partial(new_state, record, models, verified, mount)
    return (yield from handover.finish(run, probe, proof, extras, choice, pulls[0], state_with))


def watch(run: HostRun, probe: Probe, choice: Choice) -> Commands:
    """The timer that looks after the host from now on; or none, by the settings."""
    if run.settings.watch:
        yield from watching.install._inner(probe, watch_wanted(run.settings, choice, probe))
    else:
        yield from watching.remove._inner(probe)


def tidy(
    run: HostRun, probe: Probe, proof: SmokeWanted, choice: Choice, pulls: tuple[pull.Pull, ...]
) -> Commands:
    """What may go once all is proven; then an unwanted fetch ends, too."""
    settings = run.settings
    if probe.sent:
        yield send.forget()
    if old := move.former(probe.state, settings.ollama_models):
        yield from move.leave._inner(old, settings.ollama_models)
    if settings.prune == "all":
        former = tags.former(probe.state, proof.model, proof.digest, probe.models.manifests)
        kept = {*alias.names(settings, choice), *(row["name"] for row in former)}
        if before := tags.replaced(probe.state, proof.model, proof.digest):
            kept.add(before["name"])  # whoever brought it: rollback.py goes back to it
        wanted = [one.want.manifest_path for one in pulls]
        names = prune.unwanted(probe.models, probe.state, settings.model, wanted, kept)
        yield from prune.remove._inner(settings.base_url, names)
    fetching = probe.unit("r1fleet-pull.service").active in ("active", "activating")
    if fetching and all(one.installed and one.installed is one.known for one in pulls):
        yield from pull.cancel._inner()


def look_again(run: HostRun, *, whatever: bool = False) -> Generator[FunctionCommand, None, Probe]:
    """The host as it is now; asked only if this run has changed something since the last look."""
    if (run.stale or whatever) and run.look() is None:
        yield fail("probe", run.trouble, run.fix)
    assert run.probe
    return run.probe
