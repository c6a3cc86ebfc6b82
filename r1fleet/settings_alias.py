"""The settings of the name that clients ask for, and of a change of what serves them; part of
Settings, after those of the driver."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from r1fleet import golden as prompts
from r1fleet.alias import check
from r1fleet.settings_driver import DriverSettings


class AliasSettings(DriverSettings):
    """The stable name, and how a host goes from one model or engine to the next."""

    alias: Annotated[str, AfterValidator(check.alias)] | None = Field(
        default="deepseek-r1:fleet", description="the name that clients ask for; None: no such name"
    )
    alias_class: bool = Field(
        default=False, description="one more with the size, as deepseek-r1:fleet-32b"
    )
    alias_system: Annotated[str, AfterValidator(check.system)] | None = Field(
        default=None, description="its system prompt"
    )
    alias_parameters: Annotated[dict[str, object], AfterValidator(check.parameters)] = Field(
        default={}, description='its parameters, as {"temperature": 0.6, "top_p": 0.95}'
    )
    keep_tags: Annotated[int, Field(ge=0, le=20)] = Field(
        default=1, description="former tags that stay for a way back; only what r1fleet brought"
    )
    drain_timeout_s: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=60, description="wait for running requests before a restart; 0: cut them off"
    )
    golden: Annotated[str, AfterValidator(prompts.checked_path)] | None = Field(
        default=None, description="your own prompts, a YAML file (docs/alias.md)"
    )
    to: Annotated[str, BeforeValidator(check.date)] | None = Field(
        default=None, description="for rollback.py: a date; None: what was served before"
    )
