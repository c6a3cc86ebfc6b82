"""Hosts that should be equally fast: the same GPUs, model and context. Pure.

A row is one of `r1fleet status` (status_data.row); the speed is that of the host's last proof.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

# One short prompt is measured; runs of it on a quiet host differ by a few percent.
SLOWER = 0.85  # of the sisters' median
HOTTER_C = 15  # above the sisters' median: below that a fan makes the difference
CARD_FIELDS = ("pcie_width", "power_limit_w", "temperature_c")

Row = Mapping[str, Any]


def compare(rows: Sequence[Row]) -> dict[str, str]:
    """A line for each host that is slower than its sisters, by its name."""
    found = {}
    for family in _families(rows):
        for row in family:
            sisters = [other for other in family if other is not row]
            usual = median(other["tokens_per_s"] for other in sisters)
            if row["tokens_per_s"] < SLOWER * usual:
                found[row["host"]] = _line(row, sisters, usual)
    return found


def _families(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Two or more hosts that have proven the same on the same cards."""
    families: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        same = row["digest"] and row["digest"] == row["proven_digest"]
        if row["tokens_per_s"] and same and row["context"] and row["cards"]:
            names = tuple(sorted(card["name"] for card in row["cards"]))
            families[names, row["digest"], row["context"]].append(row)
    return (family for family in families.values() if len(family) > 1)


def _line(row: Row, sisters: Sequence[Row], usual: float) -> str:
    names = ", ".join(other["host"] for other in sisters[:3])
    more = f" and {len(sisters) - 3} more" if len(sisters) > 3 else ""
    differs = "; ".join(_differences(row, sisters))
    return (
        f"{row['tokens_per_s']:.1f} tokens/s, {row['tokens_per_s'] / usual:.0%} of {names}{more}"
        " with the same GPU, tag and context: "
        + (differs or "no difference seen in PCIe width, power limit, temperature, driver, engine")
    )


def _differences(row: Row, sisters: Sequence[Row]) -> Iterator[str]:
    own, usual = _worst(row), _usual(sisters)
    if _below(own["pcie_width"], usual["pcie_width"]):
        yield f"PCIe x{own['pcie_width']:.0f}, not x{usual['pcie_width']:.0f}"
    if _below(own["power_limit_w"], usual["power_limit_w"]):
        yield f"power limit {own['power_limit_w']:.0f} W, not {usual['power_limit_w']:.0f} W"
    hot, normal = own["temperature_c"], usual["temperature_c"]
    if hot is not None and normal is not None and hot >= normal + HOTTER_C:
        yield f"{hot:.0f} °C, not {normal:.0f} °C"
    if row["others_on_gpu"]:
        yield f"also on its GPU: {', '.join(row['others_on_gpu'])}"
    for what, of in (("driver", "loaded"), ("engine", "answers")):
        there = {str((other[what] or {}).get(of)) for other in sisters}
        mine = str((row[what] or {}).get(of))
        if mine not in there:
            yield f"{what} {mine}, not {' or '.join(sorted(there))}"


def _worst(row: Row) -> dict[str, float | None]:
    """Of several cards the slowest one counts: layers on it hold up each token."""
    cards = {field: _known(card[field] for card in row["cards"]) for field in CARD_FIELDS}
    return {
        field: (max if field == "temperature_c" else min)(values, default=None)
        for field, values in cards.items()
    }


def _usual(rows: Iterable[Row]) -> dict[str, float | None]:
    worst = [_worst(row) for row in rows]
    known = {field: _known(one[field] for one in worst) for field in CARD_FIELDS}
    return {field: median(values) if values else None for field, values in known.items()}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _below(own: float | None, usual: float | None) -> bool:
    return own is not None and usual is not None and own < usual
