"""Which driver a host needs: pure, from the probe and the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from r1fleet import catalog
from r1fleet.hostfacts import PciDevice, Probe
from r1fleet.settings import Settings

Flavour = Literal["open", "proprietary"]

REPOSITORY_ARCH = {"x86_64": "x86_64", "aarch64": "sbsa"}
REPLACEABLE = ("nouveau", "nova_core", "nova")  # the kernel's own drivers for these cards
CONTAINERS = ("lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "wsl", "container-other")


@dataclass(frozen=True)
class DriverPlan:
    """What to do about the driver. `packages` do not contain the pinning package."""

    action: Literal["none", "skip", "refuse", "install", "load"]
    reason: str
    fix: str = ""
    branch: int = 0
    flavour: str = ""
    keyring_url: str = ""
    keyring_sha256: str | None = None
    pinning: str = ""
    packages: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_packages(self) -> tuple[str, ...]:
        return (self.pinning, *self.packages)


def plan(probe: Probe, settings: Settings) -> DriverPlan:
    """The driver plan of a host: nothing, skip, refuse, or packages to install."""
    gpus, driver = probe.nvidia_gpus, probe.driver
    if not gpus:
        return DriverPlan("skip", "no NVIDIA GPU")
    if healthy(probe):
        return DriverPlan("none", f"driver {driver.loaded} works")
    if driver.smi_rc == 0 and len(driver.gpus) == len(gpus) and new_enough(probe):
        return DriverPlan("load", "nvidia_uvm is not loaded")
    return _obstacle(probe) or _install(probe, settings, gpus)


def _obstacle(probe: Probe) -> DriverPlan | None:
    """What must be put right by a person first."""
    gpus, driver = probe.nvidia_gpus, probe.driver
    if driver.gpus and len(driver.gpus) < len(gpus):
        return DriverPlan(
            "refuse",
            f"the driver lists {len(driver.gpus)} of {len(gpus)} GPUs",
            "'journalctl -k | grep NVRM' on the host tells why; a lost card needs a power cycle",
        )
    for gpu in gpus:
        if gpu.driver not in (None, "nvidia", *REPLACEABLE):
            return DriverPlan(
                "refuse",
                f"GPU {gpu.bdf} belongs to {gpu.driver}",
                "give it back to the host, or take the host out of the inventory",
            )
    if probe.virtualisation in CONTAINERS:
        return DriverPlan(
            "refuse",
            f"this host is a container ({probe.virtualisation}): its kernel is not its own",
            "install the driver on the machine that runs it and pass the GPU in",
        )
    return None


def healthy(probe: Probe) -> bool:
    """Whether the loaded driver lists every GPU of the bus and is new enough for the engine."""
    driver = probe.driver
    listed = driver.smi_rc == 0 and len(driver.gpus) == len(probe.nvidia_gpus)
    return listed and driver.uvm_loaded and new_enough(probe)


def new_enough(probe: Probe) -> bool:
    """Whether the engine takes every GPU that the driver lists."""
    driver = probe.driver
    major = _major(driver.loaded or driver.gpus[0].driver_version)
    return all(major >= catalog.drivers().floor(gpu.compute_capability) for gpu in driver.gpus)


def _install(probe: Probe, settings: Settings, gpus: tuple[PciDevice, ...]) -> DriverPlan:
    row = catalog.drivers().find(probe.distro, probe.distro_version)
    arch = REPOSITORY_ARCH.get(probe.arch)
    if row is None or arch is None:
        return DriverPlan(
            "refuse",
            f"no driver plan for {probe.distro_name} on {probe.arch}",
            "install NVIDIA's driver by its guide, then run again: a working driver is left alone",
        )
    flavour, trouble = choose_flavour([gpu.device for gpu in gpus], settings.driver_branch)
    if trouble:
        return DriverPlan("refuse", trouble, "set driver_branch, or take that card out of the host")
    if settings.driver_flavour != "auto":
        flavour = settings.driver_flavour
    base = f"{settings.driver_repository_url}/{row.repository}/{arch}"
    return DriverPlan(
        "install",
        _why(probe),
        branch=settings.driver_branch,
        flavour=flavour,
        keyring_url=f"{base}/{row.keyring}",
        keyring_sha256=settings.driver_keyring_sha256,
        pinning=row.pinning.format(branch=settings.driver_branch),
        packages=(row.headers.format(kernel=probe.kernel), *row.packages[flavour]),
        proxies=settings.proxies,
    )


def choose_flavour(device_ids: list[str], branch: int) -> tuple[Flavour, str]:
    """The module flavour for the GPUs of one host, and "" or why no driver serves them all."""
    ranges = [catalog.drivers().flavour(device_id) for device_id in device_ids]
    for device_id, row in zip(device_ids, ranges, strict=True):
        if row.last_branch is not None and row.last_branch < branch:
            return "proprietary", (
                f"GPU {device_id} ({row.name}) is served up to driver branch {row.last_branch},"
                f" not by {branch}"
            )
    if all(row.flavour == "open" for row in ranges):
        return "open", ""
    if any(row.open_only for row in ranges):
        return "proprietary", f"no driver serves all of the GPUs {', '.join(device_ids)}"
    # Old and new cards in one host: only the proprietary modules drive both.
    return "proprietary", ""


def _why(probe: Probe) -> str:
    driver = probe.driver
    if driver.smi_rc == 127:
        return "no driver is installed"
    if driver.loaded is None:
        return "the driver is installed but not loaded"
    return f"driver {driver.loaded} is too old for Ollama"


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else 0
