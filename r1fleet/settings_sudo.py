"""The setting of how commands become root's; part of Settings."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from r1fleet import sudo_password
from r1fleet.settings_check import Bad


def _source(value: str) -> str:
    if not sudo_password.is_source(value) or not value.isprintable():
        raise Bad(
            "says not where the password is",
            "use ask, env:NAME, file:PATH or command:WORDS; never the password itself",
        )
    return value


class SudoSettings(BaseModel):
    """How a user who is not root becomes it, where the inventory says `_sudo: True`."""

    model_config = ConfigDict(defer_build=True)

    sudo_password: Annotated[str, AfterValidator(_source)] | None = Field(
        default=None,
        description="for hosts with _sudo: ask (once, here), env:NAME, file:PATH, command:WORDS",
    )
