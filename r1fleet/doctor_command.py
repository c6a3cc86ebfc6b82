"""`r1fleet doctor`: one host, check by check."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r1fleet.asked import one_of

if TYPE_CHECKING:
    from pyinfra.api import Host

    from r1fleet.doctor import Check
    from r1fleet.reach import Fleet

FAILED, UNREACHABLE = 1, 3
SCHEMA = 1
MARKS = {"ok": ("ok", "green"), "warning": ("note", "cyan"), "bad": ("BAD", "bold red")}


@click.command()
@click.argument("inventory")
@click.argument("host")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False),
    help="Write what the host answers to FILE, without names and addresses: for a report of a bug.",
)
def doctor(
    inventory: str, host: str, data: tuple[str, ...], as_json: bool, record: str | None
) -> None:
    """Look at one host: a line for each check, with what to do where it is not sound.

    Only looks. Exit code 0: sound; 1: something is not, or the host does not answer; 2: no such
    host, or settings are wrong.

    \b
    Examples: r1fleet doctor inventories/prod.py gpu1
              r1fleet doctor inventories/prod.py gpu1 --record gpu1.txt
    """
    fleet, chosen = one_of(inventory, host, data, elevates=True)
    if record:
        _record(fleet, chosen, Path(record))
    found = _look(fleet, chosen)
    from r1fleet.doctor import is_sound  # noqa: PLC0415

    sound = is_sound(found)
    if as_json:
        rows = [asdict(check) for check in found]
        whole = {"schema": SCHEMA, "host": chosen.name, "sound": sound, "checks": rows}
        click.echo(json.dumps(whole, indent=1))
    else:
        _show(found)
    raise SystemExit(0 if sound else FAILED)


def _look(fleet: "Fleet", host: "Host") -> "Sequence[Check]":
    from r1fleet import doctor, status_look  # noqa: PLC0415

    answers = fleet.ask(status_look.question(fleet))
    return doctor.checks(status_look.row(fleet, host, answers[host.name], datetime.now(UTC)))


def _show(found: "Sequence[Check]") -> None:
    from rich.text import Text  # noqa: PLC0415

    from r1fleet.status_text import console  # noqa: PLC0415

    screen = console(sys.stdout)
    width = max(len(check.name) for check in found)
    for check in found:
        word, style = MARKS[check.level]
        line = Text(f"{word:<4} ", style).append(f"{check.name:<{width}}  ", "bold")
        told = f"{check.what}; {check.fix}" if check.fix else check.what
        screen.print(line.append(told, "not bold"), soft_wrap=True)


def _record(fleet: "Fleet", host: "Host", target: Path) -> None:
    from r1fleet.anonymous import anonymous  # noqa: PLC0415
    from r1fleet.probe import parse  # noqa: PLC0415

    (answer,) = fleet.ask(lambda member: _raw(fleet, member)).values()
    if answer.value is None:
        click.echo(f"{host.name}: {answer.reason}", err=True)
        raise SystemExit(FAILED if answer.is_reached else UNREACHABLE)
    address = str(host.data.get("ssh_hostname") or "")
    names = {host.name, address, *host.name.split("."), *address.split(".")}
    kept = {name for name in names if not name.isdigit() and len(name) > 1}
    text = anonymous(answer.value, kept, fleet.settings[host.name].ollama_models)
    parse(text)  # what cannot be read again is no fixture
    target.write_text(text, encoding="ascii")
    click.echo(f"written to {target}: look through it before you give it away", err=True)


def _raw(fleet: "Fleet", host: "Host") -> str:
    from r1fleet import elevate, probe  # noqa: PLC0415
    from r1fleet.reach import ASK_LIMIT_S  # noqa: PLC0415

    settings = fleet.settings[host.name]
    script = probe.command(settings.ollama_models, settings.base_url)
    return elevate.answer(host, script, timeout_s=ASK_LIMIT_S)
