"""What sizing takes and gives: hardware, policy, choice. Plain, frozen, hashable."""

from dataclasses import dataclass
from typing import Literal

from r1fleet.catalog import KvType, ModelTag
from r1fleet.memory import CUDA_CONTEXT_MIB

# Ollama's engine drops older cards (its CUDA libraries are built from 5.0).
OLDEST_CAPABILITY = (5, 0)
# Two channels of DDR4-3200, what a plain host has at least. Nothing on a host tells the real one.
RAM_GB_S = 51.2

Placement = Literal["gpu", "offload", "cpu"]


@dataclass(frozen=True)
class Gpu:
    """A device: nvidia-smi's index, name and memory.total; the capability is None when unknown.

    + bandwidth_gb_s: of its memory, 10^9 bytes per second; None when unknown
    + unified: it has no memory of its own, `vram_mib` is what it may take of the host's
    + vendor: "apple" is Metal, "amd" a card that ROCm serves; both have no compute capability
    + mig_uuid: it is this instance of a card; a process can use one instance alone
    """

    index: int
    name: str
    vram_mib: int
    compute_capability: tuple[int, int] | None
    bandwidth_gb_s: float | None = None
    unified: bool = False
    vendor: Literal["nvidia", "amd", "apple"] = "nvidia"
    mig_uuid: str = ""

    @property
    def usable(self) -> bool:
        return self.vram_mib > 0 and (self.compute_capability or (9, 0)) >= OLDEST_CAPABILITY

    @property
    def has_flash_attention(self) -> bool:
        capability = self.compute_capability or (9, 0)
        return capability >= (6, 0) and capability != (7, 2)

    @property
    def context_mib(self) -> int:
        """What the process takes of it before anything is loaded."""
        return 0 if self.vendor == "apple" else CUDA_CONTEXT_MIB


@dataclass(frozen=True)
class Hardware:
    """A host. `estimated`: from PCI ids, before a driver.

    + other_gpus: cards that nothing serves here, such as "AMD GPU 744c"
    + disk_free_mib: room for models, those that are there already included; None when unknown
    """

    gpus: tuple[Gpu, ...]
    ram_mib: int
    cores: int
    estimated: bool = False
    other_gpus: tuple[str, ...] = ()
    disk_free_mib: int | None = None
    ram_gb_s: float = RAM_GB_S


@dataclass(frozen=True)
class Policy:
    """What a choice must keep to.

    + tag: a forced one; digests: pinned ones by model name and tag
    + sizes, quantisations, kv_types: what may be chosen, best first
    + reserve_mib: stays free on each card
    + offload_min_percent: of the layers, on the GPUs; for placement "offload"
    + extra_models: loaded beside it; room for them is kept on each card
    """

    tag: str | None = None
    context_min: int = 16384
    context_max: int = 32768
    parallel: int = 1
    kv_types: tuple[KvType, ...] = ("f16", "q8_0")
    flash_attention: bool = True
    spread: bool | None = None
    reserve_mib: int = 0
    no_gpu: Literal["refuse", "cpu"] = "refuse"
    cpu_largest_tag: str = "7b"
    placement: Placement = "gpu"
    offload_min_percent: int = 50
    sizes: tuple[str, ...] = ("671b", "70b", "32b", "14b", "8b", "7b", "1.5b")
    quantisations: tuple[str, ...] = ("q4_K_M",)
    tokens_per_s_min: float = 0.0
    extra_models: tuple[str, ...] = ()
    model: str = "deepseek-r1"
    digests: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Choice:
    """A way to run a model on a host.

    + gpus: indexes of the cards it uses, empty on the CPU
    + only_these_gpus: Ollama would take other cards as well, so they must be hidden from it
    + needed_mib: per card used, without the CUDA context; left_mib: what stays free there
    + ram_mib: host memory it needs off the GPUs, the system's share included; 0 on GPUs
    + layers_on_gpu of layers: as llama.cpp counts them, the output is one
    + gpu_percent: of the model's memory, as /api/ps tells it
    + expected_tokens_per_s: rough, None when a bandwidth is unknown; speed_basis: what it rests on
    + next_smaller: the tag to take when this one is too slow; None when there is none
    + mig_uuid: of the instance it sits on
    """

    tag: str
    model: ModelTag
    placement: Placement
    context: int
    kv_type: KvType
    parallel: int
    reason: str
    sched_spread: bool = False
    gpus: tuple[int, ...] = ()
    only_these_gpus: bool = False
    needed_mib: tuple[int, ...] = ()
    left_mib: tuple[int, ...] = ()
    ram_mib: int = 0
    layers_on_gpu: int = 0
    layers: int = 0
    gpu_percent: int = 0
    expected_tokens_per_s: float | None = None
    speed_basis: str = ""
    warnings: tuple[str, ...] = ()
    next_smaller: str | None = None
    mig_uuid: str = ""
