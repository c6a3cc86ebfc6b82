"""The hosts behind the fleet gateways, as this run and the ones before have seen them."""

from collections.abc import Mapping, Sequence

from r1fleet import catalog, decide
from r1fleet.fleet import HostRun
from r1fleet.gateway import fleet as wanted
from r1fleet.gateway.pool import Stand, pool_id
from r1fleet.hostfacts import Probe
from r1fleet.model import manifest as manifests
from r1fleet.settings import Settings
from r1fleet.settings_check import is_loopback
from r1fleet.sizing import Choice


def members(runs: Mapping[str, HostRun]) -> dict[str, HostRun]:
    """The hosts of the run that a fleet gateway may send requests to."""
    return {
        name: run
        for name, run in runs.items()
        if run.settings.serve
        and run.settings.expose == "gateway"
        and not is_loopback(run.settings.gateway_listen)
        and not run.balances
    }


def known(here: HostRun, runs: Mapping[str, HostRun]) -> tuple[Stand, ...]:
    """What the fleet gateway on the host `here` should know.

    Of a host that was not asked, or gave no answer, it keeps what it knew, as long as the
    inventory has the host. One whose certificate cannot be verified yet is left out.
    """
    before = wanted.read_known(here.probe.gateway.knows) if here.probe else ()
    inventory = {member.name for member in here.host.state.inventory}
    kept = {stand.name: stand for stand in before if stand.name in inventory}
    asked = {name: run for name, run in runs.items() if run.probe}
    found = {name: stand for name, stand in kept.items() if name not in asked}
    found |= {name: stand(run, run.probe) for name, run in members(asked).items() if run.probe}
    # One without a CA has no gateway yet.
    sound = [one for one in found.values() if one.tls != "internal" or one.root]
    return tuple(sorted(sound, key=lambda one: one.name))


def stand(run: HostRun, probe: Probe) -> Stand:
    """A host that answered."""
    settings = run.settings
    choice = decide.size(settings, probe).sizing.choice
    sizes = {choice.model.size.lower()} if choice else set()
    if recorded := _recorded_size(probe):
        sizes.add(recorded)
    return Stand(
        name=run.host.name,
        address=f"{_in_url(_name(run))}:{settings.gateway_port}",
        classes=tuple(sorted(sizes)),
        now=min(probe.gateway.pools, default=None),
        soon=_soon(settings, probe, choice) if choice else None,
        tls=settings.gateway_tls,
        root=probe.gateway.root if settings.gateway_tls == "internal" else "",
    )


def _name(run: HostRun) -> str:
    """By which its gateway is asked: its certificate is for that."""
    settings = run.settings
    named = settings.gateway_name if settings.gateway_tls in ("acme", "files") else None
    return named or run.address


def _soon(settings: Settings, probe: Probe, choice: Choice) -> str | None:
    """The pool that a host is about to be in, where the digest is known before it is fetched."""
    want = decide.model_wanted(settings, choice)
    digest = want.digest or manifests.accepted_digest(want, probe.models)
    return pool_id(digest, choice.context) if digest else None


def _recorded_size(probe: Probe) -> str | None:
    """The size that serves now, by the host's record."""
    decision = probe.state.get("decision")
    try:
        return catalog.find_tag(decision["choice"]["model"]).size.lower() if decision else None
    except (KeyError, TypeError):
        return None


def disagreement(stands: Sequence[Stand]) -> str | None:
    """Why one gateway cannot balance over all of these; None when it can."""
    kinds = sorted({stand.tls for stand in stands})
    if len(kinds) < 2:
        return None
    return f"the hosts behind it have gateway_tls {' and '.join(kinds)}"


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
