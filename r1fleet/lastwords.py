"""Shell for the reason of a step that starts a unit: what the unit said last."""

from functools import cache
from importlib import resources


@cache
def script() -> str:
    """Defines `last_words UNIT PATTERN MATCH...` and `since_now`, before the caller's own."""
    text = (resources.files("r1fleet") / "lastwords.sh").read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
