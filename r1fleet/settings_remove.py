"""The settings of remove.py; part of Settings."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from r1fleet import settings_check as check

Yes = Annotated[bool, BeforeValidator(check.yes)]


class RemoveSettings(BaseModel):
    """What remove.py takes along. All are given in the command line, with --data."""

    model_config = ConfigDict(defer_build=True)

    remove: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="by --data alone: from how many hosts; another number: none"
    )
    remove_models: Yes = Field(default=False, description="yes: the model directory as well")
    remove_driver: Yes = Field(
        default=False, description="yes: the driver's packages that came with r1fleet as well"
    )
