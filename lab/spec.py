"""What a lab is made of: hosts and their hardware, read from a YAML file."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab.paths import SOURCE

Release = Literal["bookworm", "trixie"]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuSpec(Model):
    """One simulated card. `pci` is vendor:device, `subsystem` vendor:device, both hex.

    A `memory_mib` of 0 is a card that shares the host's. `mig` are its instances: profile and MiB.
    """

    name: str
    pci: Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]
    subsystem: Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")] = "10de:0000"
    memory_mib: Annotated[int, Field(ge=0)]
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    mig: dict[Annotated[str, Field(pattern=r"^\dg\.\d+gb$")], int] = {}


class HostSpec(Model):
    """One host. `gpus` are names of `gpus:` in the same file, one entry per card."""

    release: Release = "bookworm"
    memory_mib: Annotated[int, Field(gt=0)] = 65536
    cores: Annotated[int, Field(gt=0)] = 16
    gpus: tuple[str, ...] = ()
    # The in-kernel driver holds the card at first: modprobe nvidia needs a reboot then.
    nouveau: bool = False
    # Whether inventories/lab.py has it; else it is there for an inventory of one's own.
    listed: bool = True
    # Entered as a user with sudo by password, through another host, fish, noexec /tmp: lab/odd.py.
    odd: bool = False


class LabSpec(Model):
    gpus: dict[str, GpuSpec]
    hosts: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")], HostSpec]

    def gpus_of(self, host: str) -> tuple[GpuSpec, ...]:
        return tuple(self.gpus[name] for name in self.hosts[host].gpus)


class SpecError(ValueError):
    """The lab file cannot be used; the message says where and why, one line each."""


def load(path: Path = SOURCE / "hosts.yaml") -> LabSpec:
    """Read a lab file. Cards of the default file can be named without being repeated.

    Raises SpecError with one line per fault.
    """
    try:
        data = yaml.safe_load(path.read_text())
        cards = yaml.safe_load((SOURCE / "hosts.yaml").read_text())["gpus"]
        data["gpus"] = cards | data.get("gpus", {})
        spec = LabSpec.model_validate(data)
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: cannot be read as a lab file: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise SpecError("\n".join(lines)) from error
    for name, host in spec.hosts.items():
        for gpu in host.gpus:
            if gpu not in spec.gpus:
                known = ", ".join(sorted(spec.gpus))
                raise SpecError(f"{path}: hosts.{name}.gpus: no card {gpu!r}; known: {known}")
    return spec
