"""The report as a table on the terminal, and how to use what it shows."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from r1fleet.plan_data import host_rows
from r1fleet.plan_text import line, print_plan
from r1fleet.settings import Settings

STYLES = dict.fromkeys(("failed", "unreachable", "refused", "rolled back"), "bold red")
GOOD = ("changed", "as wanted")


def print_report(
    rows: list[dict[str, Any]],
    rollout: Mapping[str, Any],
    *,
    dry: bool,
    settings: Mapping[str, Settings],
    stream: TextIO,
) -> None:
    """Print one row per host, then the reasons, then how to use the fleet."""
    console = Console(file=stream, width=None if stream.isatty() else 160)
    table = Table(title="Plan (nothing was changed)" if dry else None, title_justify="left")
    for column in ("host", "GPU", "VRAM", "model", "context", "on GPU", "tokens/s"):
        table.add_column(column, justify="right" if column in ("VRAM", "context") else "left")
    table.add_column("would change" if dry else "changed")
    table.add_column("verdict")
    for row in rows:
        style = STYLES.get(row["verdict"], "green" if row["verdict"] in GOOD else "yellow")
        table.add_row(*_cells(row), f"[{style}]{row['verdict']}[/]")
    console.print(table)
    if dry:
        # What `r1fleet plan` shows, and the steps.
        print_plan(console, host_rows(rows), candidates="-v" in sys.argv)
        for row in rows:
            for change in row["changes"]:
                line(console, f"{row['host']}: would do: {escape(change)}")
        for text in wave_lines(rollout):
            line(console, escape(text))
        return
    print_golden(console, rows)
    for row in rows:
        for warning in row["warnings"]:
            line(console, f"[yellow]{row['host']}: warning:[/] {escape(warning)}")
        for note in row["notes"]:
            line(console, f"[cyan]{row['host']}: note:[/] {escape(note)}")
        if row["reason"] and row["verdict"] != "untouched":  # all of those for one reason
            line(console, f"[red]{row['host']}:[/] {escape(row['reason'])}")
    if rollout["stopped"]:
        line(console, f"[red]{escape(rollout['stopped'])}[/]")
    _usage(console, rows, settings)


def wave_lines(rollout: Mapping[str, Any]) -> Iterator[str]:
    """Who goes when; nothing where nobody waits for another."""
    if len(rollout["waves"]) > 1:
        if rollout["at_once"]:
            yield f"at once: {', '.join(rollout['at_once'])}"
        for wave in rollout["waves"]:
            kind = " (canaries)" if wave["canary"] else ""
            yield f"wave {wave['wave']}{kind}: {', '.join(wave['hosts'])}"
    if rollout["stopped"]:
        yield f"no wave would begin: {rollout['stopped']}"


def print_golden(console: Console, rows: list[dict[str, Any]]) -> None:
    """The team's prompts, the former model beside the new one; nothing where none was played."""
    table = Table(title="Golden prompts: former | new", title_justify="left")
    for column in ("host", "prompt", "verdict", "holds", "thinking, chars", "tokens/s", "why not"):
        table.add_column(column)
    for row in rows:
        for played in row["golden"]:
            sides = [played[side] or {} for side in ("old", "new")]
            told = [
                ["-" if not side else "yes" if side["failed"] is None else "no" for side in sides],
                [str(side.get("thinking_chars", "-")) for side in sides],
                [str(side.get("tokens_per_s", "-")) for side in sides],
            ]
            why = next((side["failed"] for side in reversed(sides) if side.get("failed")), "")
            cells = [" | ".join(pair) for pair in told]
            names = (row["host"], escape(played["prompt"]), played["verdict"])
            table.add_row(*names, *cells, escape(why))
    if table.row_count:
        console.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    estimated = "~" if row["vram_estimated"] else ""
    model = f"{row['tag']} ({row['base_model']}, {row['quantisation']})" if row["tag"] else "-"
    residency = f"{row['residency']:.0%}" if row["residency"] is not None else "-"
    return [
        row["host"],
        _gpus(row["gpus"]),
        f"{estimated}{row['vram_mib']} MiB" if row["vram_mib"] else "-",
        model,
        str(row["context"] or "-"),
        residency if row["placement"] != "cpu" else "CPU",
        f"{row['tokens_per_s']:.1f}" if row["tokens_per_s"] else "-",
        _changes(row["changes"]),
    ]


def _changes(changes: list[str]) -> str:
    """The changes that matter first; the files are only counted."""
    files = [change for change in changes if change.startswith("/")]
    told = [change for change in changes if change not in files]
    return "\n".join([*told, f"{len(files)} files"] if files else told)


def _gpus(names: list[str]) -> str:
    short = [name.removeprefix("NVIDIA ").removeprefix("GeForce ") for name in names]
    counted = {name: short.count(name) for name in short}
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in counted.items()) or "none"


def _usage(console: Console, rows: list[dict[str, Any]], settings: Mapping[str, Settings]) -> None:
    row = next((row for row in rows if row["verdict"] in GOOD and row["tag"]), None)
    if row is None:
        return
    member = settings[row["host"]]
    name, url = member.alias or f"{member.model}:{row['tag']}", member.base_url
    console.print(
        f"\nUse it on {row['host']} (it listens on {member.ollama_host}):\n"
        f'  curl {url}/api/chat -d \'{{"model": "{name}", "stream": false,'
        f' "messages": [{{"role": "user", "content": "Hello"}}]}}\'\n'
        f'  OpenAI client: base_url="{url}/v1", api_key="unused", model="{name}"',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
