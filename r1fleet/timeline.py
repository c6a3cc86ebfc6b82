"""The history that runs leave on a host, one JSON object a line: reading it. Pure.

What cannot be read is shown as such: a host's history is looked at when something went wrong.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r1fleet import paths
from r1fleet.words import plain, short

HISTORY = f"{paths.STATE_DIR}/history.jsonl"
SCHEMA = 1

# Only the newest part of a long history; ASCII, because anything else cuts pyinfra's reading off.
COMMAND = (
    f"echo @@history; [ ! -e {HISTORY} ] || tail -c 1000000 {HISTORY} | tr -cd '\\11\\12\\40-\\176'"
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Served(_Record):
    """What a host served; None where that is not known."""

    driver: str | None = None
    engine: str | None = None
    model: str | None = None
    digest: str | None = None
    settings: str | None = None


class Entry(_Record):
    """One change of a host by one run."""

    at: str
    run: str
    who: str
    commit: str | None = None
    dirty: bool = False
    before: Annotated[Served | None, Field(alias="from")] = None
    after: Annotated[Served | None, Field(alias="to")] = None
    changes: list[str] = []
    verdict: str
    reason: str | None = None
    tokens_per_s: float | None = None

    @property
    def moved(self) -> tuple[str, ...]:
        """What changed from what to what, in words."""
        return tuple(_moved(self.before or Served(), self.after or Served()))


@dataclass(frozen=True)
class Line:
    """A line of the history: an entry, or why it is none."""

    number: int
    text: str
    entry: Entry | None = None
    trouble: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """For programs: the line's object as it was written, or the line with what is wrong."""
        if self.entry:
            whole: dict[str, Any] = json.loads(self.text)
            return whole
        return {"line": self.number, "trouble": self.trouble, "text": self.text}


def read(output: Iterable[str]) -> tuple[Line, ...]:
    """The lines of a history, oldest first, from what COMMAND printed."""
    lines = list(output)[1:]
    return tuple(_line(number, text) for number, text in enumerate(lines, 1) if text.strip())


def _line(number: int, text: str) -> Line:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return Line(number, text, trouble="it is damaged")
    if not isinstance(found, dict):
        return Line(number, text, trouble="it is no JSON object")
    if found.get("schema") != SCHEMA:
        return Line(number, text, trouble=f"it is of another schema, {found.get('schema')!r}")
    try:
        return Line(number, text, Entry.model_validate(plain(found)))
    except ValidationError as error:
        fields = ", ".join(str(fault["loc"][0]) for fault in error.errors() if fault["loc"])
        return Line(number, text, trouble=f"it is not as it should be: {fields}")


def _moved(before: Served, after: Served) -> Iterator[str]:
    for name in ("driver", "engine", "model"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield f"{name} {old or 'unknown'} -> {new or 'unknown'}"
    if before.digest != after.digest:
        yield f"digest {_short(before.digest)} -> {_short(after.digest)}"
    if before.settings != after.settings:
        yield f"settings {before.settings or 'unknown'} -> {after.settings or 'unknown'}"


def _short(digest: str | None) -> str:
    return short(digest) if digest else "unknown"
