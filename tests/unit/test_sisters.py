"""Hosts that should be equally fast, and what is told of one that is not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet.sisters import compare


def row(host: str, speed: float | None = 40.0, **changes: Any) -> dict[str, Any]:
    card = {"name": "Tesla T4", "pcie_width": 16.0, "power_limit_w": 70.0, "temperature_c": 50.0}
    found = {
        "host": host,
        "tokens_per_s": speed,
        "digest": "sha256:aa",
        "proven_digest": "sha256:aa",
        "context": 16384,
        "driver": {"loaded": "580.95.05"},
        "engine": {"answers": "0.32.15"},
        "others_on_gpu": [],
        "cards": [card | {key: changes.pop(key) for key in list(changes) if key in card}],
    }
    return found | changes


def line(slow: dict[str, Any]) -> str:
    found = compare([row("a"), row("b", 41.0), slow])
    assert list(found) == [slow["host"]]
    return found[slow["host"]]


def test_equal_hosts_are_not_spoken_of() -> None:
    assert compare([row("a"), row("b", 38.0), row("c", 42.0)]) == {}


def test_the_slower_one_is_named_with_its_share_and_its_sisters() -> None:
    text = line(row("c", 20.25))
    assert text.startswith("20.2 tokens/s, 50% of a, b with the same GPU, tag and context")
    assert "no difference seen" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pcie_width": 4.0}, "PCIe x4, not x16"),
        ({"power_limit_w": 50.0}, "power limit 50 W, not 70 W"),
        ({"temperature_c": 84.0}, "84 °C, not 50 °C"),
        ({"others_on_gpu": ["Xorg", "python3"]}, "also on its GPU: Xorg, python3"),
        ({"driver": {"loaded": "535.1"}}, "driver 535.1, not 580.95.05"),
        ({"engine": {"answers": "0.17.1"}}, "engine 0.17.1, not 0.32.15"),
    ],
)
def test_what_differs_is_told(change: dict[str, Any], told: str) -> None:
    text = line(row("c", 20.0, **change))
    assert text.endswith(f": {told}")


def test_of_several_cards_the_slowest_counts() -> None:
    slow = row("c", 20.0)
    cards = slow["cards"]
    both = [row(name, cards=cards * 2) for name in "ab"]
    found = compare([*both, slow | {"cards": [*cards, cards[0] | {"pcie_width": 1.0}]}])
    assert found["c"].endswith("PCIe x1, not x16")


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:bb", "proven_digest": "sha256:bb"},
        {"proven_digest": "sha256:bb"},
        {"context": 32768},
        {"name": "NVIDIA L4"},
        {"tokens_per_s": None},
        {"digest": None},
        {"cards": []},
    ],
)
def test_only_the_same_is_compared(change: dict[str, Any]) -> None:
    assert compare([row("a"), row("b"), row("c", 5.0, **change)]) == {}


@given(st.lists(st.floats(0.1, 1e4) | st.none(), max_size=12))
def test_never_all_of_a_family_are_slower(speeds: list[float | None]) -> None:
    rows = [row(str(place), speed) for place, speed in enumerate(speeds)]
    rows[:1] = [one | {"cards": [dict.fromkeys(one["cards"][0])]} for one in rows[:1]]
    assert len(compare(rows)) < max(1, len(rows))
