"""One host from whatever it is to what the settings say: all stages in one visible order.

Everything is one operation per host, because pyinfra joins all hosts after each operation: with
one operation per stage a slow host would hold the next stage of all the others.
"""

from collections.abc import Generator
from dataclasses import replace

from pyinfra.api import FunctionCommand, operation

from r1fleet import decide, fleet, handover, outcome, stages, tags
from r1fleet.adopt import install as adopt
from r1fleet.alias import wanted as alias
from r1fleet.driver.plan import plan as plan_driver
from r1fleet.engine import install as engine
from r1fleet.engine import sandbox, wanted
from r1fleet.fleet import HostRun
from r1fleet.gateway import balance, exposure
from r1fleet.gateway import stage as gateway
from r1fleet.hostfacts import Probe
from r1fleet.leased import leased, rehearse
from r1fleet.mirror import source
from r1fleet.model import pull
from r1fleet.remote import fail, told
from r1fleet.rollback.guard import guarded, optional
from r1fleet.rollback.restore import roll_back
from r1fleet.rollback.served import find
from r1fleet.sizing import Sizing
from r1fleet.stages import Tried
from r1fleet.verify.judge import needs_load
from r1fleet.watch import install as watch

Commands = Generator[FunctionCommand, None, None]


@operation()
def converge(run: HostRun) -> Commands:
    """Bring one host to what its settings say, and prove it.

    + run: the host's settings and its probe, from `fleet.observe`

    It yields no command when nothing differs and the last proof is fresh. Before its first one
    it takes the lease of the host and looks again: others may have been there since.
    """
    yield from leased(run, _plan)
    if run.balancers and run.stale and run.host.state.is_executing:
        run.look()  # the fleet gateways are told what it has become
    outcome.of(run.host.name).done = True


def _plan(run: HostRun) -> Commands:
    """The stages; what cannot be planned fails this host alone."""
    try:
        yield from _stages(run)
    except Exception as error:  # raised on, it would end the run for every host
        yield fail("plan", told(error), "see the settings of this host")


def _stages(run: HostRun) -> Commands:
    settings = run.settings
    probe = yield from stages.checked(run)
    if run.balances and fleet.everyone():  # `status` looks at each host alone
        yield from balance.stage(run, probe, outcome.rollout.first)
    if not settings.serve:
        yield from watch.remove._inner(probe)
        return
    driver_plan = plan_driver(probe, settings)
    is_settled = driver_plan.action in ("none", "skip")
    if is_settled:  # a host that nothing fits is refused before any change
        sizing = yield from stages.size(run, probe)
        yield from handover.check_name(run, sizing.chosen, probe)
    elif promised := decide.size(settings, probe).sizing.choice:
        yield from handover.check_name(run, promised, probe)
    yield from stages.compare(run, probe)
    yield from engine.tools._inner(probe, settings.proxies, settings.bundle)
    if driver_plan.commands:
        yield from stages.early_pull(run, probe)
    probe = yield from stages.driver_proven(run, probe, driver_plan)

    if not is_settled:
        sizing = yield from stages.size(run, probe)
        yield from handover.check_name(run, sizing.chosen, probe)
    yield from source.settle._inner(run, probe, sizing.chosen)
    delivery = pull.Pull(stages.model_of(run, sizing.chosen))
    probe = yield from stages.store(run, probe)
    # Where trying it on can change no more than the context, the download need not wait for it.
    if decide.is_certain(settings, probe, sizing.chosen):
        yield from tags.keep_side._inner(delivery.want, probe)
        yield from pull.start._inner(delivery, probe)
    archive = run.source.archive(wanted.archive_for(settings, sizing.chosen, probe), settings)
    yield from engine.fetch._inner(probe, archive, settings.proxies)
    probe = replace(probe, engine_versions=probe.engine_versions | {archive.key})
    sizing, tried = yield from stages.try_on(run, probe, sizing)
    choice = sizing.chosen
    yield from handover.check_name(run, choice, probe)  # its name may carry another class now
    if not delivery.begun or delivery.want.name != decide.model_wanted(settings, choice).name:
        yield from source.settle._inner(run, probe, choice)
        delivery = pull.Pull(stages.model_of(run, choice))
        yield from tags.keep_side._inner(delivery.want, probe)
        yield from pull.start._inner(delivery, probe)
    serve = _serve(run, probe, sizing, tried, delivery)
    before = find(probe.served, probe.state.get("served"))
    if before is None:  # it never served what was proven: there is nothing to go back to
        yield from serve
    elif failure := (yield from guarded(run, serve)):
        yield from roll_back(run, before, failure)


def _serve(
    run: HostRun, probe: Probe, sizing: Sizing, tried: Tried, delivery: pull.Pull
) -> Commands:
    """From here on the host serves something else than before, until it is proven or put back."""
    settings, choice = run.settings, sizing.chosen
    game = yield from handover.begin(run, probe, choice, delivery)
    serving = probe.engine_version is not None
    if run.adopting and delivery.want.by_engine:
        serving = False  # what answers is not r1fleet's, and would fetch for itself
    if serving:  # it is not restarted for a model that may never come
        yield from pull.finish._inner(delivery)
    engine_wanted = wanted.engine(settings, choice, probe)
    archive = run.source.archive(engine_wanted.archive, settings)
    if run.adopting:
        port, limit_s = settings.engine_address[1], settings.drain_timeout_s
        yield from adopt.stop._inner(run.adopting, probe, port, limit_s)
        probe = yield from stages.look_again(run)
    yield from sandbox.install(run, probe, replace(engine_wanted, archive=archive))
    if not serving:
        yield from pull.finish._inner(delivery)
    yield from gateway.prepare(run, probe)

    probe = yield from stages.look_again(run)
    extras = yield from stages.extras(run, probe, sizing)
    largest = alias.weights(delivery.installed.blobs) if delivery.installed else None
    proof = decide.proof_wanted(settings, choice, delivery.digest, probe, largest)
    yield from gateway.step_out(run, probe, proof.digest, proof.context)
    yield from engine.preload._inner(
        probe,
        wanted.preload(settings, proof.model),
        again=delivery.placed
        or needs_load(probe, proof.digest, proof.keep_alive, proof.same_weights),
    )
    probe = yield from stages.look_again(run)
    state = yield from stages.verify(run, probe, proof, sizing, tried, (delivery, *extras), game)
    if settings.expose == "gateway":
        yield from gateway.open_up(run, probe, proof.digest, proof.context)
        probe = yield from stages.look_again(run)
    yield from exposure.check._inner(run, probe, state)
    for rest in (
        stages.watch(run, probe, choice),
        stages.tidy(run, probe, proof, choice, (delivery, *extras)),
    ):
        for command in rest:
            yield optional(command)  # what is proven is not put back for that


def preview(run: HostRun) -> tuple[list[str], str | None]:
    """What `converge` would do, one line per step, and why it would stop there, if it would.

    From the probe alone: nothing is asked of the host.
    """
    return rehearse(run, _plan)
