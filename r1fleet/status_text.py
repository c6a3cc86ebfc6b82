"""The state of a fleet as a table, and below it what is to be said of single hosts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from r1fleet.model.manifest import human
from r1fleet.watch import said
from r1fleet.words import age, plain, short

STYLES = {"as wanted": "green", "drift": "yellow", "held": "yellow"}
PIPED_WIDTH = 160
WIDE = 110  # columns; below it the digest and the alias stand in --json alone


def console(stream: TextIO) -> Console:
    """A console for people on this stream."""
    return Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH)


def print_status(console: Console, found: Mapping[str, Any]) -> None:
    """The table, then what is to be said of single hosts, in whole lines."""
    found = plain(found)
    rows = list(found["hosts"].values())
    console.print(_table(rows, console.width))
    for line in _below(found):
        console.print(line, soft_wrap=True)  # they are copied and searched for


def picture(found: Mapping[str, Any], width: int) -> RenderableType:
    """The same as one picture, `width` columns wide."""
    found = plain(found)
    rows = list(found["hosts"].values())
    return Group(_table(rows, width), *_below(found))


def _below(found: Mapping[str, Any]) -> Iterator[Text]:
    for row in found["hosts"].values():
        yield from _lines(row)
    yield Text(_counted(found["counts"]))


def _table(rows: Iterable[Mapping[str, Any]], width: int) -> Table:
    wide = width >= WIDE
    has_alias = any(row["alias"] for row in rows)
    # Without lines a table of 80 columns has room for names of 14 letters.
    table = Table(box=box.SIMPLE_HEAD if wide else None, padding=(0, 1), pad_edge=False)
    table.add_column("host", overflow="fold")
    table.add_column("driver", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    table.add_column("model", no_wrap=True)
    if wide and has_alias:
        table.add_column("alias", overflow="fold")
    table.add_column("context", justify="right", no_wrap=True)
    table.add_column("on GPU", justify="right", no_wrap=True)
    table.add_column("proven", justify="right", no_wrap=True)
    table.add_column("free", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, wide, wide and has_alias))
    return table


def _cells(row: Mapping[str, Any], wide: bool, has_alias: bool) -> Iterator[Text]:
    verdict = str(row["verdict"])
    yield Text(row["host"])
    yield _driver(row["driver"])
    yield Text((row["engine"] or {}).get("answers") or "-")
    digest = f" {short(row['digest'])}" if wide and row["digest"] else ""
    yield Text(f"{row['tag'] or '-'}{digest}")
    if has_alias:
        yield Text("\n".join(_alias(row)) or "-")
    yield Text(str(row["context"] or "-"))
    yield Text(_residency(row))
    yield Text("-" if row["verified_age_s"] is None else age(row["verified_age_s"]))
    free = row["disk_free_bytes"]
    yield Text("-" if free is None else human(free))
    yield Text(verdict, STYLES.get(verdict, "bold red"))


def _driver(driver: Mapping[str, Any] | None) -> Text:
    if driver is None:
        return Text("-")
    version = driver["loaded"] or driver["version"] or "none"
    return Text(version, "red" if driver["fault"] else "")


def _residency(row: Mapping[str, Any]) -> str:
    if row["residency"] is None:
        return "-"
    return "CPU" if row["placement"] == "cpu" else f"{row['residency']:.0%}"


def _alias(row: Mapping[str, Any]) -> Iterator[str]:
    """Each stable name, with the tag that it points to where it is the same manifest."""
    for name, digest in (row["alias"] or {}).items():
        there = row["tag"] if digest == row["digest"] and row["tag"] else short(digest)
        yield f"{name.partition(':')[2]} = {there}"


def _lines(row: Mapping[str, Any]) -> Iterator[Text]:
    """What does not fit a table, in whole lines that begin with the host's name."""
    if held := row["lease"]:
        over = ", which is over" if held["is_over"] else ""
        over = ", by a run that is gone" if held["is_left"] else over
        what = f"held by {held['who']} since {held['since']} until {held['until']}{over}"
        yield _line(row, "lease", "yellow", f"{what} (run {held['run']})")
    told = {item["what"] for item in row["drift"]}
    if row["reason"] and row["reason"] not in told:
        yield _line(row, row["verdict"], "bold red", row["reason"])
    for item in row["drift"]:
        yield _line(row, f"drift, {item['kind']}", "yellow", item["what"])
    if row["slower"]:
        yield _line(row, "slower", "yellow", row["slower"])
    for text in said.lines(row["watch"]):
        yield _line(row, "watch", "yellow", text)
    for warning in row["warnings"]:
        yield _line(row, "warning", "cyan", warning)


def _line(row: Mapping[str, Any], word: str, style: str, text: str) -> Text:
    line = Text(overflow="fold")
    return line.append(f"{row['host']}: ").append(f"{word}: ", style).append(text)


def _counted(counts: Mapping[str, int]) -> str:
    told = [f"{count} {verdict}" for verdict, count in counts.items() if verdict != "hosts"]
    return f"{counts['hosts']} host{'s' * (counts['hosts'] != 1)}: {', '.join(told)}"
