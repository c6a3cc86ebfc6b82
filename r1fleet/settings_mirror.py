"""The settings of a mirror on the LAN and of the hosts that pull through it; part of Settings."""

import re
from ipaddress import ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from r1fleet import settings_check as check
from r1fleet.settings_check import Bad
from r1fleet.settings_driver import DriverSettings


def cache_size(value: str) -> str:
    """Bytes as nginx writes them."""
    if not re.fullmatch(r"[1-9][0-9]{0,6}[MG]", value, re.ASCII):
        raise Bad("is not a size", "give it as 100G")
    return value


def address(value: str) -> str:
    """An address of a host, v4 or v6."""
    try:
        return str(ip_address(value))
    except ValueError:
        raise Bad("is not an address", "give one of the host's, or 0.0.0.0 for all") from None


def networks(value: tuple[str, ...]) -> tuple[str, ...]:
    """Networks and single addresses."""
    try:
        return tuple(str(ip_network(item)) for item in value)
    except ValueError as error:
        raise Bad(f"has no network: {error}", "give networks such as 10.20.0.0/16") from None


ServerUrl = Annotated[str, AfterValidator(check.server_url)]
Networks = Annotated[tuple[str, ...], BeforeValidator(check.names), AfterValidator(networks)]


class MirrorSettings(DriverSettings):
    """How a host of the group `mirror` caches for the others, and how they use it."""

    serve: bool = Field(default=True, description="False: no model here, only a mirror")
    mirror_url: ServerUrl | None = Field(
        default=None,
        description="to pull through; None: the first of the group mirror, if any",
    )
    mirror_fallback: bool = Field(
        default=True, description="to the source when the mirror fails; False: the host stops"
    )
    mirror_bind: Annotated[str, AfterValidator(address)] = Field(
        default="0.0.0.0", description="address of the mirror host that it listens on"
    )
    mirror_port: Annotated[int, Field(ge=1024, le=65535)] = Field(
        default=5080, description="its port"
    )
    mirror_allow: Networks = Field(
        default=(),
        description="networks that may ask it; none named: the hosts of the inventory",
    )
    mirror_dir: Annotated[str, AfterValidator(check.model_directory)] = Field(
        default="/var/lib/r1fleet-mirror", description="its cache, also on a disk of its own"
    )
    mirror_size: Annotated[str, AfterValidator(cache_size)] = Field(
        default="100G", description="what was not asked for longest goes beyond this"
    )

    @property
    def proxies(self) -> dict[str, str]:
        """As of the engine, but the mirror is reached directly."""
        found = super().proxies
        if found and self.mirror_url:
            beside = urlsplit(self.mirror_url).hostname or ""
            found["no_proxy"] = ",".join(filter(None, (self.no_proxy, beside)))
        return found
