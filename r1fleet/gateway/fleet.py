"""What a fleet gateway should be: one address before the gateways of all hosts. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from r1fleet import paths
from r1fleet.gateway import pool
from r1fleet.gateway.caddyfile import ADMIN, BLOBS, USE, frame, line_of
from r1fleet.gateway.pool import Route, Stand
from r1fleet.gateway.tokens import Store, caddy_lines
from r1fleet.gateway.wanted import GatewayWanted, make
from r1fleet.settings import Settings
from r1fleet.templates import render

WHOLE_MB = 10  # of a request that can be sent to another host again


def gateway(
    settings: Settings,
    store: Store,
    address: str,
    arch: str,
    stands: Sequence[Stand],
    routes: Sequence[Route],
) -> GatewayWanted:
    """The gateway of a host of the group.

    + address: of that host, by which clients reach it
    + stands: the hosts behind it; all have the same `tls`
    + routes: from `pool.routes`, at least one

    Raises TokensError where the store has no key.
    """
    config = caddyfile(settings, address, stands, routes)
    return make(settings, config, secrets(store, stands), arch)


def caddyfile(
    settings: Settings, address: str, stands: Sequence[Stand], routes: Sequence[Route]
) -> str:
    """The Caddyfile of a host that others reach at `address`."""
    names = [route.name for route in routes]
    wished = settings.pool_default
    given = {size: host for size, host in settings.pool_names.items() if size in names}
    return render(
        "Caddyfile-fleet",
        **frame(settings, address, sorted(given.values())),
        routes=routes,
        classes="|".join(size.replace(".", r"\.") for size in names),
        default=wished if wished in names else names[0],
        names=sorted(given.items()),
        scheme="http" if stands[0].tls == "off" else "https",
        roots=sorted({_der(stand.root) for stand in stands if stand.root}),
        slot_dir=paths.GATEWAY_SLOTS,
        health_interval_s=pool.HEALTH_INTERVAL_S,
        whole_mb=WHOLE_MB,
        whole_digits=len(str(WHOLE_MB * 10**6)) - 1,
        routes_use=line_of(USE),
        routes_admin=line_of((*ADMIN, *BLOBS)),
    )


def unserved(settings: Settings, routes: Sequence[Route]) -> list[str]:
    """Warnings about sizes that the settings name and no host has."""
    names = [route.name for route in routes]
    wished = settings.pool_default
    found = []
    if wished and wished not in names:
        found += [f"pool_default: no host has {wished}, so {names[0]} answers without a prefix"]
    for size in sorted(set(settings.pool_names) - set(names)):
        found += [f"pool_names: no host has {size}, so {settings.pool_names[size]} is not served"]
    return found


def secrets(store: Store, stands: Sequence[Stand]) -> str:
    """The file beside it: the clients' tokens, one for each host, and that of the health checks.

    Raises TokensError where the store has no key.
    """
    hosts = sorted(f"{stand.address} {store.for_host(stand.name).secret}\n" for stand in stands)
    health = f'Authorization "Bearer {store.health.secret}"\n'
    parts = {"clients": caddy_lines(store.tokens), "hosts": "".join(hosts), "health": health}
    return "".join(f"({name}) {{\n{lines}}}\n" for name, lines in parts.items())


def slots(routes: Sequence[Route]) -> dict[str, str]:
    """The files that say which pool a class is to be answered from, and which one when that has no
    host: name -> pool. Caddy reads them at each request, and is not reloaded for them."""
    found: dict[str, str] = {}
    for route in routes:
        first, second = (*route.pools, *route.pools)[:2]
        found |= {f"{route.name}-1": first, f"{route.name}-2": second}
    return found


def knows(stands: Sequence[Stand], routes: Sequence[Route]) -> str:
    """All that it was told, in one line: the slots, and the hosts. Of a host that does not answer
    the next run knows from here what this one knew."""
    hosts = [asdict(stand) for stand in stands]
    return json.dumps({"slots": slots(routes), "hosts": hosts}, sort_keys=True)


def read_known(text: str) -> tuple[Stand, ...]:
    """The hosts of such a line; none where it cannot be read."""
    try:
        return tuple(_stand(row) for row in json.loads(text)["hosts"])
    except (ValueError, TypeError, KeyError):
        return ()


def _stand(row: dict[str, Any]) -> Stand:
    found = {field.name: row[field.name] for field in fields(Stand)}
    return Stand(**{**found, "classes": tuple(row["classes"])})


def _der(pem: str) -> str:
    """A certificate of PEM in one line, without its frame."""
    return "".join(line for line in pem.splitlines() if "-----" not in line)
