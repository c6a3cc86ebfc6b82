"""The settings of the watch that looks at a host by itself; part of Settings."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from r1fleet import settings_check as check

Place = Annotated[str, AfterValidator(check.path)]


class WatchSettings(BaseModel):
    """A timer on the host: what it looks at, whom it tells, what it repairs."""

    model_config = ConfigDict(defer_build=True)

    watch: bool = Field(default=True, description="a timer of the host looks after it; False: none")
    watch_interval_s: Annotated[int, Field(ge=10, le=3600)] = Field(
        default=30, description="from the end of one look to the next"
    )
    watch_textfile_dir: Place | None = Field(
        default=None, description="None: /var/lib/prometheus/node-exporter, where that is there"
    )
    watch_hook: Place | None = Field(
        default=None, description="a program of the host that is told of failures, without rights"
    )
    watch_ask_every_s: Annotated[int, Field(ge=0)] = Field(
        default=900, description="one token is asked for when nobody else asks; 0: never"
    )
    watch_disk_min_mib: Annotated[int, Field(ge=0)] = Field(
        default=5120, description="less that is free for models is a fault"
    )
    watch_repair_every_s: Annotated[int, Field(ge=60)] = Field(
        default=600, description="at least so long between two restarts of the engine"
    )
    watch_repairs_per_day: Annotated[int, Field(ge=0)] = Field(
        default=3, description="and no more than these in 24 hours; 0: it repairs nothing"
    )
