"""The fleet gateway among the stages of its host, and again between the waves of a rollout."""

from collections.abc import Collection, Generator, Sequence
from functools import partial

from pyinfra.api import FunctionCommand, operation

from r1fleet import fleet, outcome, paths
from r1fleet.bundle import contents, needs
from r1fleet.engine import install as engine
from r1fleet.fleet import HostRun
from r1fleet.gateway import fleet as wanted
from r1fleet.gateway import install, pool, stands
from r1fleet.hostfacts import Probe
from r1fleet.leased import leased
from r1fleet.remote import fail, step
from r1fleet.shell import assign, write_file

Commands = Generator[FunctionCommand, None, None]

TOOLS = {"curl": "curl", "tar": "tar"}  # a host that serves a model has them from its engine stage

_PUT = """
moved=
install -d -m 755 "$DIR" || exit 1
put() {
  [ "$(cat "$DIR/$1" 2>/dev/null)" = "$2" ] || moved=yes
  echo "$2" >"$DIR/.new" && chmod 644 "$DIR/.new" && mv -f "$DIR/.new" "$DIR/$1" || exit 1
}
"""

# The gateway takes a host for one of a pool when it has asked it next: before that no other host
# may leave, or a request finds none in either pool.
_SEEN = """
[ -z "$moved" ] || sleep "$SEEN_S"
"""


def stage(
    run: HostRun, probe: Probe, leaving: Collection[str] = (), gone: Collection[str] = ()
) -> Commands:
    """Make the host a fleet gateway for the hosts as they are and are about to be.

    + leaving: hosts that are about to change
    + gone: hosts that are about to be no more
    """
    settings, runs = run.settings, fleet.everyone()
    behind = tuple(one for one in stands.known(run, runs) if one.name not in gone)
    if not behind and not stands.members(runs):
        others = (one for one in run.host.state.inventory if one.name not in runs)
        if any(one.data.get("expose") == "gateway" and one.name not in gone for one in others):
            outcome.of(run.host.name).note(["its hosts are outside of this run's limit"])
            return
        outcome.of(run.host.name).note(["no host of the fleet has expose: gateway"])
        yield from install.remove._inner(probe)
        return
    if why := stands.disagreement(behind):
        yield fail("fleet gateway", why, "give them the same")
    routes = pool.routes(behind, mixed=settings.pool_mixed, leaving=leaving)
    if not routes:  # the hosts are bare: it is made when they serve
        return
    outcome.of(run.host.name).note(wanted.unserved(settings, routes))
    if settings.bundle:
        bundle = contents.read(settings.bundle)
        if lines := list(needs.lacking_gateway(bundle, settings, probe, balances=True)):
            yield fail("bundle", f"it lacks {', '.join(lines)}", needs.FIX)
    yield from engine.tools._inner(probe, settings.proxies, settings.bundle, TOOLS)
    want = wanted.gateway(settings, settings.gateway_store, run.address, probe.arch, behind, routes)
    yield from install.install._inner(probe, want, settings.proxies, settings.drain_timeout_s)
    knows = wanted.knows(behind, routes)
    if probe.gateway.knows != knows:
        yield _tell(routes, knows)
    yield from install.start._inner(probe)


def _tell(routes: Sequence[pool.Route], knows: str) -> FunctionCommand:
    """A step that writes the slots, each by one rename, and what they were made from."""
    lines = "".join(f"put {name} {found}\n" for name, found in wanted.slots(routes).items())
    pools = {route.name: " then ".join(route.pools[:2]) for route in routes}
    told = ", ".join(f"{name} {found}" for name, found in pools.items())
    return step(
        "gateway",
        f"answers from the pools {told}",
        assign({"DIR": paths.GATEWAY_SLOTS, "SEEN_S": str(2 * pool.HEALTH_INTERVAL_S)})
        + _PUT
        + lines
        + _SEEN
        + write_file(paths.GATEWAY_KNOWS, knows, mode="644"),
        f"check {paths.GATEWAY_DIR}",
        stdin=knows,
        change="pools",
    )


def again(run: HostRun, leaving: Collection[str] = ()) -> Commands:
    """The same for what the run has made of the hosts since."""
    if not run.host.state.is_executing or not run.balances:
        return
    if run.stale:
        run.look()
    yield from leased(run, partial(_plan, leaving=leaving))


def _plan(run: HostRun, leaving: Collection[str]) -> Commands:
    if run.probe:
        yield from stage(run, run.probe, leaving)


@operation()
def settle(run: HostRun) -> Commands:
    """Tell fleet gateways what the hosts are at the end of the run. Other hosts only wait.

    + run: the host's part of the run
    """
    yield from again(run)


def trouble(run: HostRun) -> str | None:
    """Why a rollout behind the fleet gateways must not go on: one knows only the old pools."""
    bad = [name for name in run.balancers if outcome.of(name).failure]
    return f"the fleet gateway {', '.join(bad)} failed" if bad else None
