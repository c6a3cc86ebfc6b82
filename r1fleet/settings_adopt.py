"""What becomes of an Ollama that is on a host already; part of Settings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AdoptSettings(BaseModel):
    """See docs/adopt.md."""

    model_config = ConfigDict(defer_build=True)

    adopt: Literal["auto", "refuse"] = Field(
        default="auto",
        description="an Ollama that is there: auto: take its place, with its models; or refuse",
    )
