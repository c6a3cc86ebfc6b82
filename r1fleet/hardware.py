"""What sizing needs of a host, from its probe: from the driver, else estimated from PCI ids."""

import re
from dataclasses import replace

from r1fleet import catalog
from r1fleet.hostfacts import AMD, INTEL, AmdGpu, MigInstance, PciDevice, Probe, SmiGpu
from r1fleet.memory import MIB
from r1fleet.sizing_types import Gpu, Hardware

VENDORS = {AMD: "AMD", INTEL: "Intel"}
# Of memory that the GPU shares with the host, what the system keeps for itself.
UNIFIED_SYSTEM_MIB = 4096


def hardware(probe: Probe) -> Hardware:
    """The host as sizing sees it; what other programs happen to use of a GPU does not count."""
    served = {card.bdf for card in probe.rocm}
    others = tuple(
        f"{VENDORS[device.vendor]} GPU {device.device}"
        for device in probe.pci
        if device.vendor in VENDORS and device.bdf not in served
    )
    rows = probe.driver.gpus
    # A Jetson's GPU is not on the PCI bus.
    estimated = len(rows) < len(probe.nvidia_gpus)
    gpus = _estimate(probe) if estimated else _report(probe)
    gpus += tuple(_of_rocm(index, card) for index, card in enumerate(probe.rocm))
    store = probe.models
    return Hardware(
        gpus=gpus,
        ram_mib=probe.ram_mib,
        cores=probe.cores,
        estimated=estimated and bool(gpus),
        other_gpus=others,
        disk_free_mib=(store.disk_free_bytes + sum(store.blobs.values()) + _to_be_linked(probe))
        // MIB
        if store.disk_size_bytes
        else None,
    )


def _to_be_linked(probe: Probe) -> int:
    """Bytes of models of an Ollama that is there, which take no further room when they come."""
    return 1024 * sum(
        one.number("kib")
        for one in probe.existing
        if one["near"] and not set(one.models) <= set(probe.models.manifests)
    )


def _of_rocm(index: int, card: AmdGpu) -> Gpu:
    """A card that ROCm serves: sysfs tells no name. What little a processor's own GPU has of
    memory is sized like any other's."""
    return Gpu(index, f"AMD GPU {card.device}", card.vram_bytes // MIB, None, vendor="amd")


def unified_mib(ram_mib: int) -> int:
    """What a GPU may take of memory that it shares with the host."""
    return max(ram_mib - UNIFIED_SYSTEM_MIB, 0)


def apple_mib(ram_mib: int) -> int:
    """What Metal lets the GPU of a Mac take (recommendedMaxWorkingSetSize, seen in published logs):
    two thirds of the memory, three quarters from 36 GiB."""
    return ram_mib * 3 // 4 if ram_mib >= 36 * 1024 else ram_mib * 2 // 3


def _report(probe: Probe) -> tuple[Gpu, ...]:
    by_address = {device.bdf.lower(): device for device in probe.nvidia_gpus}
    found: list[Gpu] = []
    for row in probe.driver.gpus:
        card = _of_row(row, by_address.get(_bdf(row.bus_id)), probe)
        parts = [part for part in probe.driver.mig if part.gpu_index == row.index]
        found += [_instance(card, part) for part in parts] or [card]
    return tuple(found)


def _instance(card: Gpu, part: MigInstance) -> Gpu:
    """A part of a card. Its profile names the nominal GB: a few percent are missing from them
    (1g.5gb has 4864 MiB, 3g.40gb 40192)."""
    nominal = re.search(r"(\d+)gb", part.profile)
    mib = int(nominal[1]) * 1024 * 95 // 100 if nominal else 0
    share = mib / card.vram_mib if card.vram_mib else 0
    return replace(
        card,
        name=f"{card.name} MIG {part.profile}",
        vram_mib=mib,
        bandwidth_gb_s=round(card.bandwidth_gb_s * share, 1) if card.bandwidth_gb_s else None,
        mig_uuid=part.uuid,
    )


def _of_row(row: SmiGpu, device: PciDevice | None, probe: Probe) -> Gpu:
    """A row of nvidia-smi. It prints no total for unified memory, nor for a card that is ill."""
    known = catalog.gpu(device.device, device.subsystem.partition(":")[2]) if device else None
    unified = not row.memory_total_mib and (known.unified if known else device is None)
    expected = 0 if known is None else known.vram_mib or 0
    return Gpu(
        index=row.index,
        name=row.name,
        vram_mib=unified_mib(probe.ram_mib) if unified else row.memory_total_mib or expected,
        compute_capability=row.compute_capability,
        bandwidth_gb_s=known.bandwidth_gb_s if known else None,
        unified=unified,
    )


def _bdf(bus_id: str) -> str:
    """nvidia-smi's "00000000:01:00.0" as sysfs has it, "0000:01:00.0"."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _estimate(probe: Probe) -> tuple[Gpu, ...]:
    return tuple(_of_device(index, device, probe) for index, device in enumerate(probe.nvidia_gpus))


def _of_device(index: int, device: PciDevice, probe: Probe) -> Gpu:
    known = catalog.gpu(device.device, device.subsystem.partition(":")[2])
    if known is None:
        return Gpu(index, f"NVIDIA GPU {device.device}", 0, None)
    return Gpu(
        index=index,
        name=known.name,
        vram_mib=unified_mib(probe.ram_mib) if known.vram_mib is None else known.vram_mib,
        compute_capability=known.compute_capability,
        bandwidth_gb_s=known.bandwidth_gb_s,
        unified=known.unified,
    )
