"""Figures for people."""


def age(age_s: float) -> str:
    """A duration, one figure of it: "12 min"."""
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if age_s < limit_s:
            return f"{age_s / unit_s:.0f} {unit}"
    return f"{age_s / 86400:.0f} d"


def short(digest: str) -> str:
    """A digest as `ollama list` shows it."""
    return digest.removeprefix("sha256:")[:12]
