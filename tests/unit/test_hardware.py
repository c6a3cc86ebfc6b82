"""What sizing takes from a probe: cards, instances, unified memory, what is ill or unknown."""

from dataclasses import replace

import pytest

from r1fleet.driver import look
from r1fleet.hardware import apple_mib, hardware, unified_mib
from r1fleet.hostfacts import Driver, MigInstance, ModelStore, PciDevice, SmiGpu
from r1fleet.sizing import Policy, choose
from tests.unit.build import bare, working

LISTED = """listed GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5d5ba0d6)
listed   MIG 3g.40gb     Device  0: (UUID: MIG-a)
listed   MIG 1g.10gb     Device  1: (UUID: MIG-b)
listed GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-6d5ba0d6)
listed   MIG 1g.10gb+me  Device  0: (UUID: MIG-c)"""


def device(device_id: str, vendor: str = "10de") -> PciDevice:
    return PciDevice("0000:01:00.0", "030200", vendor, device_id, "10de:0000", None)


def row(total_mib: int | None, name: str = "Card") -> SmiGpu:
    return SmiGpu(0, name, "GPU-0", "00000000:01:00.0", "580.1", total_mib, 0, (12, 1))


def reporting(*rows: SmiGpu) -> Driver:
    return replace(working(), gpus=rows)


def test_cards_bring_their_bandwidth_from_the_catalogue() -> None:
    found = hardware(bare("RTX 3090", "T4", driver=working("RTX 3090", "T4")))
    assert [gpu.bandwidth_gb_s for gpu in found.gpus] == [936, 320]
    assert not found.estimated
    before = hardware(bare("RTX 3090"))
    assert (before.estimated, before.gpus[0].vram_mib) == (True, 24576)
    assert before.gpus[0].bandwidth_gb_s == 936


def test_unified_memory_leaves_the_system_its_share() -> None:
    gb10 = bare(pci=(device("2e12"),), ram_mib=122_570, driver=reporting(row(None)))
    card = hardware(gb10).gpus[0]
    assert card.unified
    assert card.vram_mib == unified_mib(122_570) < 122_570
    jetson = bare(ram_mib=62_840, driver=reporting(row(None, "Orin (nvgpu)")))
    assert hardware(jetson).gpus[0].unified
    assert choose(hardware(jetson), Policy()).chosen.tag == "70b"


def test_a_card_that_prints_no_total_is_not_taken_for_the_hosts_memory() -> None:
    ill = bare("RTX 3090", driver=reporting(row(None)))
    assert (hardware(ill).gpus[0].vram_mib, hardware(ill).gpus[0].unified) == (24576, False)
    unknown = bare(pci=(device("ffff"),), driver=reporting(row(None)))
    assert choose(hardware(unknown), Policy()).refusal


def test_mig_instances_are_devices_of_their_own() -> None:
    section = {"module": LISTED.splitlines(), "gpus": ["rc=0"], "compute": []}
    assert look.driver(section).mig == (
        MigInstance(0, "3g.40gb", "MIG-a"),
        MigInstance(0, "1g.10gb", "MIG-b"),
        MigInstance(1, "1g.10gb+me", "MIG-c"),
    )
    mig = (MigInstance(0, "3g.40gb", "MIG-a"), MigInstance(0, "1g.5gb", "MIG-b"))
    driver = replace(reporting(row(81920, "A100")), mig=mig)
    found = hardware(bare(pci=(device("20b2"),), driver=driver))
    assert [(gpu.vram_mib, gpu.mig_uuid) for gpu in found.gpus] == [
        (38912, "MIG-a"),
        (4864, "MIG-b"),
    ]
    assert choose(found, Policy()).chosen.mig_uuid == "MIG-a"


def test_cards_of_other_vendors_are_named() -> None:
    found = hardware(bare(pci=(device("744c", "1002"), device("56a0", "8086"))))
    assert found.other_gpus == ("AMD GPU 744c", "Intel GPU 56a0")
    assert "AMD GPU 744c" in str(choose(found, Policy()).refusal)


def test_models_that_are_there_count_as_room() -> None:
    store = ModelStore(disk_size_bytes=10**12, disk_free_bytes=2**30, blobs={"sha256-0": 2**30})
    assert hardware(bare(models=store)).disk_free_mib == 2048
    assert hardware(bare(models=ModelStore())).disk_free_mib is None


@pytest.mark.parametrize(("gib", "mib"), [(8, 5461), (16, 10922), (32, 21845), (64, 49152)])
def test_what_metal_lets_a_mac_use(gib: int, mib: int) -> None:
    assert apple_mib(gib * 1024) == mib
