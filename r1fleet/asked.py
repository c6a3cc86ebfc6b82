"""What commands that look at an inventory begin with: its fleet, or the faults and exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pyinfra.api import Host

    from r1fleet.reach import Fleet

WRONG = 2


@contextmanager
def faults_told() -> Iterator[None]:
    """An InventoryError in it ends the process: a line for each fault on stderr, exit code 2."""
    from r1fleet.reach import InventoryError  # noqa: PLC0415  `--help` needs none of it

    try:
        yield
    except InventoryError as error:
        for line in error.lines:
            click.echo(line, err=True)
        raise SystemExit(WRONG) from None


def fleet_of(
    inventory: str, limit: tuple[str, ...], data: tuple[str, ...], *, elevates: bool = False
) -> "Fleet":
    """The fleet of an inventory, with its settings; who `elevates` will run commands there."""
    from r1fleet import reach  # noqa: PLC0415

    with faults_told():
        fleet = reach.load(inventory, limit, data)
        if elevates:
            fleet.prepare()
        return fleet


def one_of(
    inventory: str, host: str, data: tuple[str, ...], *, elevates: bool = False
) -> "tuple[Fleet, Host]":
    """The same for one host alone."""
    from r1fleet.reach import InventoryError  # noqa: PLC0415

    fleet = fleet_of(inventory, (host,), data, elevates=elevates)
    with faults_told():
        if len(fleet.hosts) > 1:
            names = ", ".join(member.name for member in fleet.hosts)
            raise InventoryError([f"{host} is more than one host: {names}"])
    return fleet, fleet.hosts[0]
