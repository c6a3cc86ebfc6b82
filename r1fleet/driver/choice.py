"""Branch, flavour and way of a driver: pure, from GPUs, settings and the catalogue."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from r1fleet import catalog
from r1fleet.catalog.driver_rows import Distribution, Flavour, FlavourRange
from r1fleet.driver.foreign import Stop
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings


@dataclass(frozen=True)
class Wanted:
    """The driver that a host should have, and the row of the catalogue that gives it."""

    branch: int
    flavour: Flavour
    way: Distribution
    arch: str

    def fill(self, text: str, probe: Probe) -> str:
        """A word of the catalogue with the real names in it."""
        stream = {"open": "open", "proprietary": "dkms"}[self.flavour]
        return text.format(
            branch=self.branch,
            kernel=probe.kernel,
            flavour=kernel_flavour(probe.kernel, probe.packages),
            stream=stream,
        )


def kernel_flavour(kernel: str, packages: Iterable[str]) -> str:
    """The family of a kernel: aws of 6.8.0-1016-aws, or generic-hwe-24.04 where that is installed;
    cloud-amd64 of Debian's 6.12.57+deb13-cloud-amd64.

    "" for a release of another form than Ubuntu's and Debian's.
    """
    match = re.fullmatch(r"[0-9.]+(\+[^-]+)?(-[0-9]+)?-([a-z].*)", kernel)
    plain = match[3] if match else ""
    newer = sorted(name for name in packages if name.startswith(f"linux-image-{plain}-hwe-"))
    return newer[-1].removeprefix("linux-image-") if plain and newer else plain


def choose(probe: Probe, settings: Settings) -> Wanted | Stop:
    """The driver for a host's GPUs under its settings, or why there is none."""
    rows = {gpu.device: catalog.drivers().flavour(gpu.device) for gpu in probe.nvidia_gpus}
    branch = settings.driver_branch or max(
        catalog.drivers().default_branch, *(row.first_branch for row in rows.values())
    )
    flavour = choose_flavour(rows, branch, settings.driver_flavour)
    if isinstance(flavour, Stop):
        return flavour
    return _way(probe, settings, branch, flavour)


def choose_flavour(
    rows: dict[str, FlavourRange], branch: int, asked: str = "auto"
) -> Flavour | Stop:
    """The module flavour for GPUs (device id -> row of the catalogue) in a branch."""
    fix = "set driver_branch, or take that card out of the host"
    for device, row in rows.items():
        if row.last_branch is not None and row.last_branch < branch:
            return Stop(
                f"GPU {device} ({row.name}) is served up to driver branch {row.last_branch},"
                f" not by {branch}",
                fix,
            )
        if branch < row.first_branch:
            return Stop(
                f"GPU {device} ({row.name}) with Ollama needs driver branch {row.first_branch}"
                f" or newer, not {branch}",
                fix,
            )
    can = _flavours(rows, branch)
    if not can:
        return Stop(f"no driver serves all of the GPUs {', '.join(rows)}", fix)
    if asked != "auto" and asked not in can:
        return Stop(
            f"the {asked} modules of branch {branch} do not serve the GPUs {', '.join(rows)}",
            "leave driver_flavour at auto",
        )
    return cast(Flavour, asked) if asked != "auto" else can[0]


def _flavours(rows: dict[str, FlavourRange], branch: int) -> list[Flavour]:
    """Flavours that serve every GPU, the recommended one first."""
    found: list[Flavour] = []
    if all(row.flavour == "open" for row in rows.values()):
        found.append("open")
    # Old and new cards in one host: only the proprietary modules drive both.
    newest = branch >= catalog.drivers().open_only_from
    if not newest and not any(row.open_only for row in rows.values()):
        found.append("proprietary")
    return found


def _way(probe: Probe, settings: Settings, branch: int, flavour: Flavour) -> Wanted | Stop:
    ways = catalog.drivers().ways(probe.distro, probe.distro_version)
    ways = tuple(way for way in ways if probe.arch in way.arch)
    if not ways:
        return Stop(
            f"no driver plan for {probe.distro_name} on {probe.arch}",
            "install NVIDIA's driver by its guide, then run again: a working driver is left alone",
        )
    asked = settings.driver_source
    ways = tuple(way for way in ways if asked in (None, way.origin) and flavour in way.packages)
    if not ways:
        return Stop(
            f"{probe.distro_name} has no {flavour} driver of source {asked}",
            "leave driver_source out",
        )
    for way in ways:
        first, last = way.branches
        if way.follows and (settings.driver_branch or branch < first):
            continue
        if first <= branch <= last:
            return Wanted(branch, flavour, way, way.arch[probe.arch])
    return _only_branch(probe, settings, ways, flavour)


def _only_branch(
    probe: Probe, settings: Settings, ways: tuple[Distribution, ...], flavour: Flavour
) -> Wanted | Stop:
    """The one branch of an archive that has no other, if it serves the engine and the cards."""
    way = ways[0]
    first, last = way.branches
    least = max(catalog.drivers().flavour(gpu.device).first_branch for gpu in probe.nvidia_gpus)
    if first == last and settings.driver_branch is None and first >= least:
        return Wanted(first, flavour, way, way.arch[probe.arch])
    has = f"{first}" if first == last else f"{first} to {last}"
    needed = settings.driver_branch or least
    return Stop(
        f"{probe.distro_name} has driver branch {has} from {way.origin}, and Ollama with these GPUs"
        f" needs {needed}{'' if settings.driver_branch else ' or newer'}",
        "leave driver_source out to take NVIDIA's repository, or set driver_branch",
    )
