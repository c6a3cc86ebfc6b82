"""`r1fleet settings`: the settings of one host, each with the place it comes from."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1fleet.asked import faults_told, one_of

if TYPE_CHECKING:
    from pyinfra.api import Host

    from r1fleet.reach import Fleet
    from r1fleet.settings_where import Layer, Origin

SCHEMA = 1


@click.command()
@click.argument("inventory")
@click.argument("host")
@click.argument("names", nargs=-1)
@click.option("--all", "show_all", is_flag=True, help="Also those that have their default.")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--json", "as_json", is_flag=True, help="All of them, for programs.")
def settings(
    inventory: str,
    host: str,
    names: tuple[str, ...],
    show_all: bool,
    data: tuple[str, ...],
    as_json: bool,
) -> None:
    """The settings of a host: each value, where it was set, and what it overrode there.

    Without NAMES: those that differ from their default. Asks no host anything.

    Exit code 0: shown; 2: no such host or setting, or settings are wrong.

    \b
    Examples: r1fleet settings inventories/prod.py gpu1
              r1fleet settings inventories/prod.py gpu1 context_max tag
    """
    fleet, chosen = one_of(inventory, host, data)
    with faults_told():
        rows = _named(_rows(fleet, chosen, Path(inventory)), names)
    if as_json:
        click.echo(json.dumps(_document(chosen.name, rows), indent=1, default=str))
        return
    shown = [row for row in rows if names or show_all or row.source != "default"]
    _table(chosen.name, shown)


def _rows(fleet: "Fleet", host: "Host", inventory: Path) -> "list[Origin]":
    from r1fleet.settings import Settings  # noqa: PLC0415
    from r1fleet.settings_where import origins  # noqa: PLC0415

    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }
    effective = dict(fleet.settings[host.name])
    return list(origins(defaults, _layers(host, inventory), effective))


def _layers(host: "Host", inventory: Path) -> "list[Layer]":
    """The places in pyinfra's order, the one that wins last."""
    from r1fleet.settings_where import Layer, file_of  # noqa: PLC0415

    whole: Any = host.inventory
    folders = [Path("group_data")]
    beside = inventory.parent / "group_data"
    if beside.resolve() != folders[0].resolve():
        folders.append(beside)
    written = inventory if inventory.is_file() else None
    layers = [Layer("group all", whole.get_data(), file_of("all", folders) or written)]
    for group in host.groups:
        place = file_of(group, folders) or written
        layers.append(Layer(f"group {group}", whole.get_group_data(group), place))
    layers.append(Layer("host", whole.get_host_data(host.name), written))
    layers.append(Layer("--data", whole.get_override_data()))
    return layers


def _named(rows: "list[Origin]", names: tuple[str, ...]) -> "list[Origin]":
    from difflib import get_close_matches  # noqa: PLC0415

    from r1fleet.reach import InventoryError  # noqa: PLC0415

    known = {row.name: row for row in rows}
    faults = []
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            faults.append(f"no setting is named {name!r}{hint}")
    if faults:
        raise InventoryError(faults)
    return [known[name] for name in names] or rows


def _document(host: str, rows: "list[Origin]") -> dict[str, Any]:
    found = {
        row.name: {
            "value": row.value,
            "source": row.source,
            "overrode": [{"value": value, "source": source} for value, source in row.overrode],
        }
        for row in rows
    }
    return {"schema": SCHEMA, "host": host, "settings": found}


def _table(host: str, rows: "list[Origin]") -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from r1fleet.status_text import console  # noqa: PLC0415

    if not rows:
        click.echo(f"{host}: every setting has its default (--all shows them)")
        return
    table = Table("setting", "value", "from", "instead of", box=None, pad_edge=False)
    for row in rows:
        below = "\n".join(f"{_told(value)} ({source})" for value, source in row.overrode)
        table.add_row(row.name, *(escape(text) for text in (_told(row.value), row.source, below)))
    console(sys.stdout).print(table)


def _told(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return json.dumps(plain, default=str, ensure_ascii=False)
