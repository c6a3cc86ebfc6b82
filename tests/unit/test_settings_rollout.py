"""The settings of a rollout: what is taken, what is refused, and in which words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from r1fleet.settings import Settings, SettingsError, check_canaries, read, read_all


def lines(hosts: dict[str, dict[str, Any]]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_all(hosts)
    return caught.value.lines


@pytest.mark.parametrize(
    ("given", "taken"),
    [(2, 2), (0, 0), ("t4", ("t4",)), ("t4, duo", ("t4", "duo")), (["t4"], ("t4",))],
)
def test_canaries_are_a_number_or_names(given: object, taken: object) -> None:
    assert read("h", {"rollout_canary": given}).rollout_canary == taken


@pytest.mark.parametrize("given", [1, 30, "1%", "25%", "100%"])
def test_batches_are_a_number_or_a_share(given: object) -> None:
    assert read("h", {"rollout_batch": given}).rollout_batch == given


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rollout_canary", -1),
        ("rollout_canary", ""),
        ("rollout_canary", True),
        ("rollout_batch", 0),
        ("rollout_batch", "0%"),
        ("rollout_batch", "101%"),
        ("rollout_batch", "a few"),
        ("rollout_max_failed", -1),
        ("rollout_pause_s", "long"),
        ("maintenance", {"until": "2026-12-01"}),
        ("maintenance", {"until": "soon", "reason": "new PSU"}),
        ("maintenance", {"until": "2026-12-01", "reason": "two\nlines"}),
        ("steal", "perhaps"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(key: str, value: object) -> None:
    (line,) = lines({"h": {key: value}})
    assert line.startswith(f"h: {key}: ")


def test_steal_is_taken_as_pyinfra_hands_it_on() -> None:
    assert read("h", {"steal": "yes"}).steal is True
    assert read("h", {"steal": "no"}).steal is False


def test_what_holds_for_the_whole_run_must_agree() -> None:
    (line,) = lines({"a": {"rollout_batch": 1}, "b": {"rollout_batch": 2}, "c": {}})
    assert line.startswith("rollout_batch: ")
    assert "1 on a, 2 on b" in line
    assert len(read_all({"a": {"tag": "14b"}, "b": {"maintenance": {}}})) == 2


def test_an_unknown_canary_is_named_with_the_nearest_host() -> None:
    with pytest.raises(SettingsError, match="did you mean 'rtx3090'"):
        check_canaries({"t4": Settings(rollout_canary=("rtx309",))}, ["t4", "rtx3090"])
    check_canaries({"t4": Settings(rollout_canary=("duo",))}, ["t4", "duo"])


def test_a_maintenance_ends_with_a_complaint() -> None:
    now = datetime(2026, 12, 1, 6, 0, tzinfo=UTC)
    settings = Settings(maintenance={"until": "2026-12-01T06:00", "reason": "new PSU"})
    before = settings.in_maintenance(now - timedelta(minutes=1))
    assert before == "until 2026-12-01T06:00: new PSU"
    assert settings.maintenance_is_over(now - timedelta(minutes=1)) is None
    assert settings.in_maintenance(now) is None
    assert "takes part again" in str(settings.maintenance_is_over(now))
    assert Settings().in_maintenance(now) is Settings().maintenance_is_over(now) is None
