"""Hosts that a gateway or a mirror still knows, and the inventory does not. Pure."""

from collections.abc import Collection
from ipaddress import ip_address, ip_network

from r1fleet.gateway.fleet import read_known
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings


def warnings(
    probe: Probe, settings: Settings, names: Collection[str], addresses: Collection[str]
) -> list[str]:
    """A line for what the gateway on a host knows too much of, and one for its mirror.

    + names, addresses: of all hosts of the inventory
    """
    known = sorted(stand.name for stand in read_known(probe.gateway.knows))
    found = []
    if gone := [name for name in known if name not in names]:
        found += [
            f"the fleet gateway still knows {', '.join(gone)}, which the inventory does not:"
            " deploy.py takes that out"
        ]
    if gone := _allowed_for_nobody(probe, settings, addresses):
        found += [
            f"the mirror still lets {', '.join(gone)} in, which the inventory does not know:"
            " deploy.py takes that out"
        ]
    return found


def _allowed_for_nobody(probe: Probe, settings: Settings, addresses: Collection[str]) -> list[str]:
    """Single addresses alone: of a network nobody can say whose it is."""
    wanted = {*addresses, *settings.mirror_allow, settings.mirror_bind}
    found = []
    for text in probe.mirror_allows:
        try:
            network = ip_network(text)
        except ValueError:
            continue
        address = str(network.network_address)
        is_one = network.num_addresses == 1 and not ip_address(address).is_loopback
        if is_one and address not in wanted and text not in wanted:
            found.append(address)
    return found
