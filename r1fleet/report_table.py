"""The report as a table on the terminal, and how to use what it shows."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from r1fleet import usage
from r1fleet.plan_data import host_rows
from r1fleet.plan_text import line, print_plan
from r1fleet.settings import Settings

STYLES = dict.fromkeys(("failed", "unreachable", "refused", "rolled back"), "bold red")
GOOD = usage.SERVES
PIPED_WIDTH = 160
WIDE = 130  # columns; below it the base model stands in the JSON alone, the changes below the table
ROOMY = 100  # columns; below it the VRAM is left out


def console_on(stream: TextIO) -> Console:
    """As wide as the terminal, and wide where there is none."""
    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH)


def print_report(
    console: Console,
    rows: list[dict[str, Any]],
    rollout: Mapping[str, Any],
    *,
    dry: bool,
    settings: Mapping[str, Settings],
) -> None:
    """Print one row per host, then the reasons, then how to use the fleet."""
    console.print(_table(rows, rollout, dry=dry, width=console.width))
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
        if row["changes"] and console.width < WIDE:
            line(console, escape(f"{row['host']}: changed: {'; '.join(_changes(row['changes']))}"))
        for warning in row["warnings"]:
            line(console, f"[yellow]{row['host']}: warning:[/] {escape(warning)}")
        for note in row["notes"]:
            line(console, f"[cyan]{row['host']}: note:[/] {escape(note)}")
        if row["reason"] and row["verdict"] != "untouched":  # all of those for one reason
            line(console, f"[red]{row['host']}:[/] {escape(row['reason'])}")
    if rollout["stopped"]:
        line(console, f"[red]{escape(rollout['stopped'])}[/]; {escape(rollout['fix'])}")
    _usage(console, rows, settings)


def _table(
    rows: list[dict[str, Any]], rollout: Mapping[str, Any], *, dry: bool, width: int
) -> Table:
    canaries = {host for wave in rollout["waves"] if wave["canary"] for host in wave["hosts"]}
    wide = width >= WIDE
    shape: dict[str, Any] = {} if wide else {"box": None, "pad_edge": False}
    title = "Plan (nothing was changed)" if dry else None
    table = Table(title=title, title_justify="left", **shape)
    for column in ("host", "GPU", "model"):
        table.add_column(column, overflow="fold")
    for column in ("context", "on GPU", "tokens/s"):
        table.add_column(column, justify="right", no_wrap=True)
    if wide:
        table.add_column("would change" if dry else "changed")
    if has_waves := len(rollout["waves"]) > 1:
        table.add_column("wave", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        cells = list(_cells(row, vram=width >= ROOMY, base_model=wide))
        if wide:
            cells.append(_steps(row["changes"]) if dry else "\n".join(_changes(row["changes"])))
        cells = [escape(cell) for cell in cells]
        if has_waves:
            cells.append("canary" if row["host"] in canaries else str(row["wave"] or "-"))
        style = STYLES.get(row["verdict"], "green" if row["verdict"] in GOOD else "yellow")
        table.add_row(*cells, f"[{style}]{row['verdict']}[/]")
    return table


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


def _cells(row: dict[str, Any], *, vram: bool, base_model: bool) -> Iterator[str]:
    model = row["tag"] or "-"
    if base_model and row["base_model"]:
        model = f"{model} ({row['base_model']}, {row['quantisation']})"
    residency = f"{row['residency']:.0%}" if row["residency"] is not None else "-"
    yield row["host"]
    estimated = "~" if row["vram_estimated"] else ""
    unknown = not row["gpus"] and row["tag"] is None
    has_vram = vram and row["vram_mib"]
    yield (
        "-"
        if unknown
        else _gpus(row["gpus"]) + (f", {estimated}{row['vram_mib']} MiB" if has_vram else "")
    )
    yield model
    yield str(row["context"] or "-")
    yield residency if row["placement"] != "cpu" else "CPU"
    yield f"{row['tokens_per_s']:.1f}" if row["tokens_per_s"] else "-"


def _steps(steps: list[str]) -> str:
    """Only how many: they are told below, with the commands of each, which are indented."""
    count = sum(not step.startswith(" ") for step in steps)
    return f"{count} step{'s' if count > 1 else ''}" if count else ""


def _changes(changes: list[str]) -> list[str]:
    """The changes that matter first; the files are only counted."""
    files = [change for change in changes if change.startswith("/")]
    told = [change for change in changes if change not in files]
    return [*told, f"{len(files)} file{'s' if len(files) > 1 else ''}"] if files else told


def _gpus(names: list[str]) -> str:
    short = [name.removeprefix("NVIDIA ").removeprefix("GeForce ") for name in names]
    counted = {name: short.count(name) for name in short}
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in counted.items()) or "none"


def _usage(console: Console, rows: list[dict[str, Any]], settings: Mapping[str, Settings]) -> None:
    use = usage.use_of(rows, settings)
    if use is None:
        return
    inventory = next((word for word in sys.argv[1:] if word.endswith(".py")), "INVENTORY")
    console.print()
    for text in usage.lines(use, inventory):
        line(console, escape(text))
