"""`r1fleet status`: how each host of an inventory is, and in what it is not as wanted."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from r1fleet import status_look
from r1fleet.asked import fleet_of

if TYPE_CHECKING:
    from r1fleet.reach import Fleet

Show = Callable[[dict[str, Any]], None]


@click.command()
@click.argument("inventory")
@click.option("--limit", multiple=True, help="Only these hosts or groups, as for pyinfra.")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
def status(
    inventory: str,
    limit: tuple[str, ...],
    data: tuple[str, ...],
    as_json: bool,
    watch: bool,
    every: int,
) -> None:
    """How each host is, and in what it is not as wanted. Only looks, once per host.

    Exit code 0: all as wanted; 1: a host failed or is refused; 2: settings or arguments are
    wrong; 3: nothing worse than hosts that cannot be reached; 4: drift; 5: another run holds
    hosts.

    \b
    Example: r1fleet status inventories/prod.py
             r1fleet status inventories/prod.py --limit gpu1.example.org --watch --every 5
    """
    fleet = fleet_of(inventory, limit, data, elevates=True)
    if watch:
        _watch(fleet, as_json, every)
    found = look(fleet)
    (_json if as_json else _table)(found)
    raise SystemExit(_code(found))


def _code(found: dict[str, Any]) -> int:
    from r1fleet.status_data import exit_code  # noqa: PLC0415

    return exit_code(row["verdict"] for row in found["hosts"].values())


def look(fleet: "Fleet") -> dict[str, Any]:
    """Ask all hosts and judge their answers: what `--json` prints."""
    answers = fleet.ask(status_look.question(fleet), meanwhile=_import_the_rest)
    from r1fleet.status_data import whole  # noqa: PLC0415

    now = datetime.now(UTC)
    rows = [status_look.row(fleet, host, answers[host.name], now) for host in fleet.hosts]
    return whole(rows, now)


def _import_the_rest() -> None:
    """Slow to import, and the hosts are at work."""
    import r1fleet.rollout  # noqa: PLC0415
    import r1fleet.status_data  # noqa: PLC0415
    import r1fleet.status_text  # noqa: F401, PLC0415


def _json_line(found: dict[str, Any]) -> None:
    click.echo(json.dumps(found))
    sys.stdout.flush()


def _json(found: dict[str, Any]) -> None:
    click.echo(json.dumps(found, indent=1))


def _table(found: dict[str, Any]) -> None:
    from r1fleet.status_text import console, print_status  # noqa: PLC0415

    print_status(console(sys.stdout), found)


def _watch(fleet: "Fleet", as_json: bool, every_s: int) -> NoReturn:
    """Look until Ctrl-C, the next time `every_s` after the last began; the last look's code."""
    code = 0
    show, close = _pictures(as_json)

    def leave(*_: object) -> None:
        # Not by an exception: gevent prints it, and a host may have us wait in the middle of it.
        close()
        sys.stdout.flush()
        os._exit(code)

    signal.signal(signal.SIGINT, leave)
    while True:
        began = time.monotonic()
        found = look(fleet)
        code = _code(found)
        show(found)
        time.sleep(max(0.0, every_s - (time.monotonic() - began)))


def _pictures(as_json: bool) -> tuple[Show, Callable[[], None]]:
    """How to show one look after the other, and how to end that: in place on a terminal, below
    each other elsewhere."""
    from rich.live import Live  # noqa: PLC0415

    from r1fleet.status_text import console, picture  # noqa: PLC0415

    screen = console(sys.stdout)
    if as_json or not screen.is_terminal or screen.is_dumb_terminal:
        return _json_line if as_json else _table, lambda: None
    live = Live(console=screen, auto_refresh=False)
    live.start()
    return lambda found: live.update(picture(found, screen.width), refresh=True), live.stop
