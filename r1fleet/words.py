"""Words and figures for people."""

from typing import Any, TypeVar

T = TypeVar("T")


def age(age_s: float) -> str:
    """A duration, one figure of it: "12 min"."""
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if age_s < limit_s:
            return f"{age_s / unit_s:.0f} {unit}"
    return f"{age_s / 86400:.0f} d"


def short(digest: str) -> str:
    """A digest as `ollama list` shows it."""
    return digest.removeprefix("sha256:")[:12]


def plain(found: T) -> T:
    """A text, or all texts of plain data, without what would move a terminal's cursor or colour it.

    What hosts say ends on the operator's screen: a host must not draw there.
    """
    return _plain(found)  # type: ignore[no-any-return]


def _plain(found: Any) -> Any:
    if isinstance(found, str):
        if found.isprintable():
            return found
        return "".join(char if char.isprintable() or char in "\n\t" else " " for char in found)
    if isinstance(found, dict):
        return {_plain(key): _plain(value) for key, value in found.items()}
    return [_plain(item) for item in found] if isinstance(found, list | tuple) else found
