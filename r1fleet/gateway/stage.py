"""The gateway among the stages of a host: closed, brought up to date, opened behind a proof."""

from collections.abc import Generator

from pyinfra.api import FunctionCommand

from r1fleet import paths
from r1fleet.fleet import HostRun
from r1fleet.gateway import install, wanted
from r1fleet.gateway.pool import pool_id
from r1fleet.hostfacts import Probe
from r1fleet.remote import step
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]

_JOIN = f"""
set -e
install -d -o root -g {wanted.USER} -m 750 "$DIR"
[ -e "$DIR/$POOL" ] || : >"$DIR/$POOL"
for other in "$DIR"/*; do [ "${{other##*/}}" = "$POOL" ] || rm -f "$other"; done
"""


def prepare(run: HostRun, probe: Probe) -> Commands:
    """Bring the gateway's files up to date; or close it, where it is no longer wanted."""
    settings = run.settings
    if settings.expose != "gateway":
        if not run.balances:  # what is there is the fleet's then
            yield from install.remove._inner(probe)
        return
    want = wanted.gateway(settings, settings.gateway_store, run.host.name, run.address, probe.arch)
    yield from install.install._inner(probe, want, settings.proxies, settings.drain_timeout_s)


def step_out(run: HostRun, probe: Probe, digest: str, context: int) -> Commands:
    """Leave the pool before something else is served than what it stands for: fleet gateways send
    nothing more here. Clients of the host's own gateway are served all the while."""
    if run.settings.expose == "gateway" and probe.gateway.pools - {pool_id(digest, context)}:
        yield step(
            "gateway",
            f"leaves the pool {', '.join(sorted(probe.gateway.pools))}",
            f"rm -f {paths.GATEWAY_POOLS}/*",
            f"check {paths.GATEWAY_POOLS}",
            change="left its pool",
        )


def open_up(run: HostRun, probe: Probe, digest: str, context: int) -> Commands:
    """Let requests through to what was proven: a manifest digest, with a context in tokens."""
    if run.settings.expose != "gateway":
        return
    pool = pool_id(digest, context)
    if probe.gateway.pools != {pool}:
        yield step(
            "gateway",
            f"joins the pool {pool}",
            assign({"DIR": paths.GATEWAY_POOLS, "POOL": pool}) + _JOIN,
            f"check {paths.GATEWAY_POOLS}",
            change=f"pool {pool}",
        )
    yield from install.start._inner(probe)
    if probe.gateway.drained:
        yield step(
            "gateway",
            "takes requests again",
            f"rm -f {paths.REFUSING} {paths.DRAINING} {paths.DRAIN_FLAG}",
            "check /run/r1fleet",
            change="takes requests again",
        )
