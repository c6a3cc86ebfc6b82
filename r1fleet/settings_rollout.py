"""The settings of a rollout, after those of the driver; part of Settings."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from r1fleet import settings_check as check
from r1fleet.settings_check import Bad
from r1fleet.settings_driver import DriverSettings

Natural = Annotated[int, Field(ge=0)]


def _canary(value: object) -> object:
    """A number, or names of hosts."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise Bad("is below 0", "give how many of each GPU model, or names of hosts")
        return value
    names = check.names(value)
    if not names:
        raise Bad("names no host", "use 0 for a rollout without canaries")
    return names


def _batch(value: object) -> object:
    """A number of hosts, or a share such as "25%"."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and re.fullmatch(r"([1-9][0-9]?|100)%", value, re.ASCII):
        return value
    raise Bad("is neither a number of hosts nor a share of them", 'give it as 2 or "25%"')


def _maintenance(value: dict[str, str]) -> dict[str, str]:
    if not value:
        return value
    if set(value) != {"until", "reason"}:
        raise Bad("needs until and reason, nothing else", "see docs/rollout.md")
    check.one_line(value["reason"])
    try:
        _time(value["until"])
    except ValueError:
        raise Bad("has no time in until", "give it as 2026-12-01 or 2026-12-01T06:00") from None
    return value


def _time(text: str) -> datetime:
    """A time without a zone is UTC, as all times here are."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class RolloutSettings(DriverSettings):
    """How a change goes through the fleet. Those named rollout_... hold for the whole run."""

    rollout_canary: Annotated[int | tuple[str, ...], BeforeValidator(_canary)] = Field(
        default=1, description="hosts of each GPU model that go first, or their names; 0: none"
    )
    rollout_batch: Annotated[int | str, BeforeValidator(_batch)] = Field(
        default="25%", description="hosts of each wave after that: a number or a share"
    )
    rollout_max_failed: Natural = Field(
        default=0, description="more hosts that failed in their wave stop the rollout"
    )
    rollout_max_unreachable: Natural = Field(
        default=0, description="as that, for hosts that were lost in their wave"
    )
    rollout_pause_s: Natural = Field(default=0, description="wait between two waves, in seconds")
    maintenance: Annotated[dict[str, str], AfterValidator(_maintenance)] = Field(
        default={}, description='left alone: {"until": "2026-12-01T06:00", "reason": "new PSU"}'
    )
    steal: Annotated[bool, BeforeValidator(check.yes)] = Field(
        default=False, description="take hosts over that another operator holds"
    )

    def in_maintenance(self, now: datetime) -> str | None:
        """Why the host is left alone now, in words."""
        if not self.maintenance or _time(self.maintenance["until"]) <= now:
            return None
        return f"until {self.maintenance['until']}: {self.maintenance['reason']}"

    def maintenance_is_over(self, now: datetime) -> str | None:
        """A complaint about a maintenance whose time has passed."""
        if not self.maintenance or self.in_maintenance(now):
            return None
        return (
            f"its maintenance ({self.maintenance['reason']}) was to end at "
            f"{self.maintenance['until']}: it takes part again; take the setting out"
        )


def disagreements(hosts: Mapping[str, RolloutSettings]) -> list[str]:
    """A line for each setting of the whole run that differs between its hosts."""
    return [line for key in _shared() if (line := _differs(key, hosts))]


def _shared() -> list[str]:
    return [key for key in RolloutSettings.model_fields if key.startswith("rollout_")]


def _differs(key: str, hosts: Mapping[str, RolloutSettings]) -> str | None:
    first: dict[Any, str] = {}
    for name, settings in hosts.items():
        first.setdefault(getattr(settings, key), name)
    if len(first) < 2:
        return None
    told = ", ".join(f"{value!r} on {name}" for value, name in list(first.items())[:3])
    return f"{key}: holds for the whole run and differs, {told}; set it once for all of them"
