"""Probes for tests, built from a bare host by naming what differs."""

from dataclasses import replace
from typing import Any

from r1fleet.hostfacts import Driver, ModelStore, PciDevice, Probe, SmiGpu, Unit

CARDS = {
    "T4": ("1eb8", 15360, (7, 5)),
    "RTX 3090": ("2204", 24576, (8, 6)),
    "RTX 4090": ("2684", 24564, (8, 9)),
    "GTX 1080 Ti": ("1b06", 11264, (6, 1)),
    "RTX 5090": ("2b85", 32607, (12, 0)),
    "V100": ("1db5", 32768, (7, 0)),
}

BARE_DRIVER = Driver(None, False, False, None, None, False, False, 127, (), ())


def pci(*cards: str, driver: str | None = None) -> tuple[PciDevice, ...]:
    return tuple(
        PciDevice(f"0000:0{i + 1}:00.0", "030000", "10de", CARDS[card][0], "10de:0000", driver)
        for i, card in enumerate(cards)
    )


def working(*cards: str, version: str = "580.178.04", **changes: Any) -> Driver:
    """A driver that lists the cards."""
    rows = tuple(
        SmiGpu(
            i,
            card,
            f"GPU-{i}",
            f"00000000:0{i + 1}:00.0",
            version,
            CARDS[card][1],
            0,
            CARDS[card][2],
        )
        for i, card in enumerate(cards)
    )
    driver = Driver(version, True, True, version, version, False, False, 0, rows, ())
    return replace(driver, **changes)


def bare(*cards: str, **changes: Any) -> Probe:
    """A bare Debian 12 with these cards on its bus."""
    probe = Probe(
        distro="debian",
        distro_version="12",
        distro_name="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0-44-amd64",
        arch="x86_64",
        boot_id="b0",
        cores=16,
        virtualisation="none",
        is_root=True,
        ram_mib=65536,
        pci=pci(*cards),
        driver=BARE_DRIVER,
        packages={"curl": "7.88"},
        tools=frozenset({"curl", "tar", "apt-get", "systemd-run"}),
        user_groups=frozenset(),
        units={},
        engine_current=None,
        engine_versions=frozenset(),
        restart_pending=False,
        files={},
        models=ModelStore(disk_size_bytes=10**12, disk_free_bytes=9 * 10**11, mount="/"),
        engine_version=None,
        loaded=(),
        state={},
    )
    return replace(probe, **changes)


RUNNING = Unit(load="loaded", active="active", sub="running", enabled=True, invocation="i0")
