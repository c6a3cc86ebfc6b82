"""A host's history as a timeline, the newest change first."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from r1fleet.timeline import Entry, Line

STYLES = {"changed": "green", "failed": "bold red", "rolled back": "yellow"}


def print_timeline(console: Console, lines: Iterable[Line]) -> None:
    """Each change with when, who, by what, from what to what, and how it ended."""
    for line in reversed(list(lines)):
        if line.entry:
            _print(console, _entry(line.entry))
        else:
            told = Text().append(f"line {line.number}: {line.trouble}: ", "red")
            _print(console, [told.append(line.text[:200])])


def _print(console: Console, lines: Iterable[Text]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)  # whole lines: they are copied and searched for


def _entry(entry: Entry) -> Iterator[Text]:
    by = "no commit" if entry.commit is None else f"commit {entry.commit}"
    dirty = " (dirty)" if entry.dirty else ""
    speed = "" if entry.tokens_per_s is None else f", {entry.tokens_per_s:g} tokens/s"
    head = Text().append(entry.at, "bold").append("  ")
    head.append(entry.verdict, STYLES.get(entry.verdict, ""))
    yield head.append(f"{speed}  by {entry.who}, {by}{dirty}, run {entry.run}")
    for moved in entry.moved:
        yield Text(f"    {moved}")
    if entry.reason:
        yield Text("    ").append("reason: ", "red").append(entry.reason)
    if entry.changes:
        yield Text(f"    changed: {'; '.join(entry.changes)}", "dim")
