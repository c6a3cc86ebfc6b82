"""The settings of the engine's unit: its network and its limits; part of Settings."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Percent = Annotated[int, Field(ge=1)]
MemoryMib = Annotated[int, Field(ge=1024)]
Tasks = Annotated[int, Field(ge=256)]
Files = Annotated[int, Field(ge=1024)]


class UnitSettings(BaseModel):
    """What of the hardened unit is a matter of choice (docs/security.md)."""

    model_config = ConfigDict(defer_build=True)

    unit_network: Literal["auto", "open"] = Field(
        default="auto",
        description="auto: loopback alone where the engine needs no more; open: no limit",
    )
    unit_memory_max_mib: MemoryMib | None = Field(
        default=None, description="of host memory for the engine; more ends it"
    )
    unit_cpu_percent: Percent | None = Field(
        default=None, description="of processor time for the engine; 100 is one core"
    )
    unit_tasks_max: Tasks | None = Field(
        default=None, description="processes and threads of the engine"
    )
    unit_files_max: Files | None = Field(
        default=None, description="files and connections that it may have open at once"
    )

    @property
    def unit_limits(self) -> tuple[tuple[str, str], ...]:
        """The limits that are set, as directives of the unit."""
        memory, cpu = self.unit_memory_max_mib, self.unit_cpu_percent
        values = {
            "MemoryMax": f"{memory}M" if memory else None,
            "CPUQuota": f"{cpu}%" if cpu else None,
            "TasksMax": self.unit_tasks_max,
            "LimitNOFILE": self.unit_files_max,
        }
        return tuple((name, str(value)) for name, value in values.items() if value is not None)
