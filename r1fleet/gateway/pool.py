"""Pools: hosts that answer alike, as they serve the same digest with the same context. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

GROUP = "gateway"  # of the inventory: the hosts that become fleet gateways
# A fleet gateway asks each host so often, and takes a host that fails once out at once.
HEALTH_INTERVAL_S = 2
ANY = "any"  # in place of a pool's id: whatever the host serves


def pool_id(digest: str, context: int) -> str:
    """The name of a pool; `digest` is of the manifest, `context` in tokens."""
    text = f"{digest.removeprefix('sha256:')} {context}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Stand:
    """A host as the fleet gateways know it.

    + address: where its gateway listens, host:port
    + classes: the sizes that it serves or is about to serve, as "32b"
    + now: the pool that it is in, None when it serves nothing proven
    + soon: the pool that it is about to be in, None when that is not known yet
    + tls: how its gateway does TLS, as the setting gateway_tls
    + root: the certificate of its gateway's own CA in PEM, "" when it has none
    """

    name: str
    address: str
    classes: tuple[str, ...]
    now: str | None
    soon: str | None
    tls: str = "internal"
    root: str = ""


@dataclass(frozen=True)
class Route:
    """What clients of a class are given: hosts, and the pools that they may be in, best first.

    Which host is in which pool at this moment is asked of the hosts themselves all the time.
    """

    name: str
    pools: tuple[str, ...]
    addresses: tuple[str, ...]


def routes(
    stands: Sequence[Stand], *, mixed: bool, leaving: Collection[str] = ()
) -> tuple[Route, ...]:
    """The routes of a fleet, in the order of their classes' hosts, most hosts first.

    + mixed: one pool of all hosts of a class, whatever they serve
    + leaving: hosts that are about to change: they do not count for the pool that they are in

    The best pool is the one with the most hosts, so that a rollout moves the clients of a class to
    the new pool at one moment, about half-way. Others are used while the best has no host.
    """
    found = []
    for name in sorted({name for stand in stands for name in stand.classes}):
        members = [stand for stand in stands if name in stand.classes]
        pools = (ANY,) if mixed else _ranked(members, leaving)
        if pools:
            addresses = sorted({stand.address for stand in members})
            found.append(Route(name, pools, tuple(addresses)))
    return tuple(sorted(found, key=lambda route: -len(route.addresses)))


def _ranked(members: Sequence[Stand], leaving: Collection[str]) -> tuple[str, ...]:
    stays = Counter(one.now for one in members if one.now and one.name not in leaving)
    comes = Counter(one.soon for one in members if one.soon)
    known = {pool for one in members for pool in (one.now, one.soon) if pool}
    return tuple(sorted(known, key=lambda pool: (-stays[pool], -comes[pool], pool)))
