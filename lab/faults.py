"""Faults that can be set on one host of the lab; what each does is in faults.yaml."""

from collections.abc import Mapping
from functools import cache

import yaml
from pydantic import BaseModel, ConfigDict

from lab import hosts, identity
from lab.paths import SOURCE, host_dir
from lab.shell import Refusal, run


class HostFault(BaseModel):
    """One fault: scripts for the host, or files for its power supply (name -> content)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    breaks: str = ""
    mends: str = ""
    power: dict[str, str] = {}


@cache
def known() -> Mapping[str, HostFault]:
    """The faults of a host by name."""
    data = yaml.safe_load((SOURCE / "faults.yaml").read_text())
    return {name: HostFault.model_validate(entry) for name, entry in data.items()}


def set_fault(host: str, name: str, on: bool) -> None:
    """Switch a fault of a host on or off.

    Raises Refusal for an unknown name or host, LabError when the host's script fails.
    """
    if name not in known():
        raise Refusal(f"no fault {name!r} of a host; known: {', '.join(sorted(known()))}")
    fault, place = known()[name], hosts.get(host)
    for file, content in fault.power.items():
        path = host_dir(host) / file
        if on:
            path.write_text(content)
        else:
            path.unlink(missing_ok=True)
    if script := fault.breaks if on else fault.mends:
        run(*identity.ssh_command(place.address, script))
