"""What is known of a host: typed, plain objects that the probe fills and the planners read."""

import json
from dataclasses import dataclass, field
from typing import Any

from r1fleet.adopt.facts import Existing

NVIDIA, AMD, INTEL = "10de", "1002", "8086"
REPLACEABLE = ("nouveau", "nova_core", "nova")  # the kernel's own drivers for NVIDIA's cards


@dataclass(frozen=True)
class PciDevice:
    """A display-class PCI function. Ids are four hex digits; `driver` is None when unbound."""

    bdf: str
    device_class: str
    vendor: str
    device: str
    subsystem: str
    driver: str | None

    @property
    def is_nvidia_gpu(self) -> bool:
        # 0300 VGA and 0302 3D controller; the same vendor owns audio and bridges.
        return self.vendor == NVIDIA and self.device_class[:4] in ("0300", "0302")

    @property
    def is_given_away(self) -> bool:
        """Whether it belongs to something else than a driver of this host, as vfio-pci."""
        return self.driver not in (None, "nvidia", *REPLACEABLE)

    @property
    def is_nvswitch(self) -> bool:
        return self.vendor == NVIDIA and self.device_class[:4] == "0680"


@dataclass(frozen=True)
class SmiGpu:
    """A row of nvidia-smi; None where it printed no number."""

    index: int
    name: str
    uuid: str
    bus_id: str
    driver_version: str
    memory_total_mib: int | None
    memory_used_mib: int | None
    compute_capability: tuple[int, int] | None
    # Health by nvidia-smi's field names, as it printed them; empty on drivers that lack a field.
    health: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GpuHolder:
    """A process that has a GPU's device file open. `unit` is its systemd unit or scope."""

    pid: int
    name: str
    user: str
    age_s: int
    unit: str


@dataclass(frozen=True)
class DesktopSession:
    """A session with a screen (x11 or wayland)."""

    user: str
    kind: str


@dataclass(frozen=True)
class MigInstance:
    """A part of a card that CUDA sees as a device: its card's index, "3g.40gb", "MIG-..."."""

    gpu_index: int
    profile: str
    uuid: str


@dataclass(frozen=True)
class ComputeProcess:
    pid: int
    name: str
    used_mib: int | None


@dataclass(frozen=True)
class Driver:
    """State of the NVIDIA driver; `smi_rc` 127 means that there is no nvidia-smi."""

    loaded: str | None
    open_module: bool
    uvm_loaded: bool
    on_disk: str | None
    library: str | None
    nouveau: bool  # or nova_core: the kernel's own driver is there
    blacklisted_at_boot: bool  # our blacklist was there before this boot
    smi_rc: int
    gpus: tuple[SmiGpu, ...]
    processes: tuple[ComputeProcess, ...]
    disk_open: bool | None = None  # flavour of the module on disk
    smi_message: str = ""  # what nvidia-smi said instead of rows
    mig: tuple[MigInstance, ...] = ()
    refcounts: dict[str, int] = field(default_factory=dict)  # loaded modules of the driver
    holders: tuple[GpuHolder, ...] = ()
    kernel_log: tuple[str, ...] = ()  # its newest lines about the driver

    @property
    def library_branch(self) -> int:
        """The branch that is installed, 0 when none is."""
        return int((self.library or "0").partition(".")[0])


@dataclass(frozen=True)
class System:
    """What of a host bears on its driver; see probe.sh for the marks."""

    marks: frozenset[str] = frozenset()
    headers: bool = True  # of the running kernel: there, or to be had
    other_kernels: dict[str, bool] = field(default_factory=dict)  # newer kernel -> has a module
    free_mib: dict[str, int] = field(default_factory=dict)  # path -> free space
    sessions: tuple[DesktopSession, ...] = ()
    workloads: tuple[str, ...] = ()  # containers and virtual machines that run, by their unit
    held: frozenset[str] = frozenset()  # packages that may not change
    broken: frozenset[str] = frozenset()  # packages that are half installed
    record: dict[str, Any] = field(default_factory=dict)  # what r1fleet noted before its change


@dataclass(frozen=True)
class AmdGpu:
    """An AMD card that amdgpu serves, with the VRAM that sysfs tells. `device`: four hex digits."""

    bdf: str
    device: str
    vram_bytes: int


@dataclass(frozen=True)
class Amd:
    """State of AMD's driver; `works` is whether amdgpu is loaded and /dev/kfd is there."""

    works: bool = False
    gpus: tuple[AmdGpu, ...] = ()


@dataclass(frozen=True)
class Unit:
    """A systemd unit as `systemctl show` tells it; all text."""

    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    invocation: str = ""
    enabled: bool = False
    needs_reload: bool = False


@dataclass(frozen=True)
class Gateway:
    """The gateway as it is on the host. `root` is the certificate of its own CA, PEM."""

    current: str | None = None  # what its `current` link names
    versions: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()  # that it says the host serves
    pending: str = ""  # "restart" or "reload": it has not read its files yet
    drained: bool = False  # it keeps requests away
    root: str = ""
    knows: str = ""  # of a fleet gateway: what it was told of the hosts


@dataclass(frozen=True)
class Watch:
    """What the host's own watch has noted; the last change of it at `since_s`, its clock."""

    faults: tuple[str, ...] = ()
    what: str = ""  # the same in words
    since_s: int = 0
    repairs_s: tuple[int, ...] = ()  # when it restarted the engine, in the last 24 hours


@dataclass(frozen=True)
class ModelStore:
    """The model directory. `kind` is stat's file type, None when it does not exist."""

    kind: str | None = None
    owner: str = ""
    disk_size_bytes: int = 0
    disk_free_bytes: int = 0
    mount: str = ""
    manifests: dict[str, str] = field(default_factory=dict)  # path below manifests/ -> sha256
    blobs: dict[str, int] = field(default_factory=dict)  # file name -> bytes


@dataclass(frozen=True)
class LoadedModel:
    """A row of /api/ps."""

    name: str
    digest: str
    size_bytes: int
    size_vram_bytes: int
    context: int | None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "LoadedModel":
        return cls(
            name=str(row.get("name", "")),
            digest=str(row.get("digest", "")).removeprefix("sha256:"),
            size_bytes=int(row.get("size") or 0),
            size_vram_bytes=int(row.get("size_vram") or 0),
            context=row.get("context_length"),
        )

    @property
    def residency(self) -> float:
        """Share of the model in VRAM, 0 to 1."""
        return self.size_vram_bytes / self.size_bytes if self.size_bytes else 0.0


@dataclass(frozen=True)
class Probe:
    """A host as it is now."""

    distro: str
    distro_version: str
    distro_name: str
    kernel: str
    arch: str
    boot_id: str
    cores: int
    virtualisation: str
    is_root: bool  # whether our commands have root's rights
    ram_mib: int
    pci: tuple[PciDevice, ...]
    driver: Driver
    packages: dict[str, str]  # installed ones: name -> version
    tools: frozenset[str]
    user_groups: frozenset[str]  # of the service user; empty when there is none
    units: dict[str, Unit]
    engine_current: str | None  # what the `current` link names, e.g. "0.32.15-1a2b3c4d5e6f"
    engine_versions: frozenset[str]
    restart_pending: bool  # what it reads was changed, and no restart has followed yet
    files: dict[str, str]  # managed path -> sha256
    models: ModelStore
    engine_version: str | None  # what /api/version says; None when it does not answer
    loaded: tuple[LoadedModel, ...]
    state: dict[str, Any]  # state.json as recorded by former runs
    amd: Amd = Amd()
    system: System = System()
    lease: tuple[str, ...] = ()  # the line of lease.json and the host's clock, if there is one
    served: frozenset[str] = frozenset()  # what is kept for a way back (rollback/served.py)
    mirror_restart_pending: bool = False  # as restart_pending, of the mirror
    dropins: tuple[str, ...] = ()  # files beside ollama.service that change it; none is ours
    sent: bool = False  # a run has left what a bundle sent to it
    gateway: Gateway = Gateway()
    here: frozenset[str] = frozenset()  # names in r1fleet's own folder of state
    brought: tuple[tuple[str, str], ...] = ()  # (kind, name) that came with r1fleet (brought.py)
    mirror_allows: tuple[str, ...] = ()  # networks that its mirror lets in
    watch: Watch | None = None  # None: there is none, or it has not looked yet
    existing: tuple[Existing, ...] = ()  # an Ollama that is not r1fleet's, and who has its port
    state_is_damaged: bool = False  # state.json is there and no JSON object

    @property
    def nvidia_gpus(self) -> tuple[PciDevice, ...]:
        """The GPUs of the bus, without those that were handed to virtual machines."""
        return tuple(
            device for device in self.pci if device.is_nvidia_gpu and not device.is_given_away
        )

    @property
    def has_nvswitch(self) -> bool:
        return any(device.is_nvswitch for device in self.pci)

    @property
    def rocm(self) -> tuple[AmdGpu, ...]:
        """The cards that Ollama can use by ROCm. Beside NVIDIA's they are left alone: one engine
        is given one library. There is no ROCm archive for other processors."""
        nvidia = self.nvidia_gpus or self.driver.gpus
        return self.amd.gpus if self.amd.works and self.arch == "x86_64" and not nvidia else ()

    def unit(self, name: str) -> Unit:
        return self.units.get(name, Unit())


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, or {} when the text is none: what is damaged counts as absent."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
