"""`r1fleet why`: the history of one host, as runs have left it there."""

import json
import sys
from typing import TYPE_CHECKING

import click

from r1fleet.asked import one_of

if TYPE_CHECKING:
    from pyinfra.api import Host

FAILED, UNREACHABLE = 1, 3
READ_LIMIT_S = 60


@click.command()
@click.argument("inventory")
@click.argument("host")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def why(inventory: str, host: str, data: tuple[str, ...], as_json: bool) -> None:
    """Why a host is as it is: every change that runs have made there, the newest first.

    When, by whom, from which commit, from what to what, how it ended and why. Only looks.

    Exit code 0: shown; 1: the host did not answer; 2: no such host, or settings are wrong; 3: it
    cannot be reached.

    \b
    Example: r1fleet why inventories/prod.py gpu1.example.org
    """
    fleet, chosen = one_of(inventory, host, data, elevates=True)
    (answer,) = fleet.ask(_read, READ_LIMIT_S).values()
    if answer.value is None:
        click.echo(f"{host}: {answer.reason}", err=True)
        raise SystemExit(FAILED if answer.is_reached else UNREACHABLE)
    _show(chosen.name, answer.value, as_json)


def _show(host: str, output: list[str], as_json: bool) -> None:
    from r1fleet import timeline  # noqa: PLC0415
    from r1fleet.status_text import console  # noqa: PLC0415
    from r1fleet.why_text import print_timeline  # noqa: PLC0415

    lines = timeline.read(output)
    if as_json:
        entries = [line.data for line in lines]
        click.echo(
            json.dumps({"schema": timeline.SCHEMA, "host": host, "history": entries}, indent=1)
        )
    elif not lines:
        click.echo(
            f"{host} has no history: no run has changed it, or r1fleet was removed"
            " (on the host: journalctl -t r1fleet)"
        )
    else:
        print_timeline(console(sys.stdout), lines)


def _read(host: "Host") -> list[str]:
    from r1fleet import elevate, timeline  # noqa: PLC0415

    return elevate.answer(host, timeline.COMMAND, timeout_s=READ_LIMIT_S).splitlines()
