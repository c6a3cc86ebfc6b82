"""The settings of a fleet gateway, read of hosts of the group gateway; part of Settings."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from r1fleet.settings_check import Bad
from r1fleet.settings_driver import DriverSettings

_CLASS = re.compile(r"[0-9][0-9.]*b")
_NAME = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def _class(value: str) -> str:
    if not _CLASS.fullmatch(value):
        raise Bad("is not a size", "give it as 32b")
    return value


def _names(value: dict[str, str]) -> dict[str, str]:
    for size, name in value.items():
        _class(size)
        if not _NAME.fullmatch(name):
            raise Bad(f"has no host name for {size}", "give it as {'32b': 'r1-32b.example.org'}")
    if len(set(value.values())) < len(value):
        raise Bad("has a name twice", "give each size a name of its own")
    return value


class FleetGatewaySettings(DriverSettings):
    """What clients of a fleet gateway are given."""

    pool_mixed: bool = Field(
        default=False, description="True: hosts of a size answer whatever digest they serve"
    )
    pool_default: Annotated[str, AfterValidator(_class)] | None = Field(
        default=None, description="size without a prefix as /32b; None: that of the most hosts"
    )
    pool_names: Annotated[dict[str, str], AfterValidator(_names)] = Field(
        default={}, description="host names in place of prefixes, as {'32b': 'r1-32b.example.org'}"
    )
