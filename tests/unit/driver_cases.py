"""Cases of tests/unit/data/driver/*.yaml as probes and settings: facts in, plan out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from r1fleet.hostfacts import (
    DesktopSession,
    Driver,
    GpuHolder,
    PciDevice,
    Probe,
    SmiGpu,
    System,
)
from r1fleet.settings import Settings
from tests.unit.build import bare

FOLDER = Path(__file__).parent / "data" / "driver"
_CLASSES = {"gpu": "030200", "nvswitch": "068000"}


def cases(file: str) -> list[Any]:
    """The cases of a file, each a mapping with name, kind, source, host, want and what differs."""
    found: list[Any] = yaml.safe_load((FOLDER / f"{file}.yaml").read_text())["cases"]
    for case in found:
        assert case["kind"] in ("recorded", "constructed"), case["name"]
        assert case["source"], case["name"]
    return found


def settings(case: Mapping[str, Any]) -> Settings:
    return Settings(**case.get("settings", {}))


def probe(case: Mapping[str, Any]) -> Probe:
    """The host of a case. `cards` are PCI ids; `driver` is bare unless the case says more."""
    host = case["host"]
    bound = case.get("bound")
    pci = [_device(i, card, "gpu", bound) for i, card in enumerate(case.get("cards", ()))]
    pci += [_device(i + 80, card, "nvswitch", None) for i, card in enumerate(case.get("bus", ()))]
    tools = {"curl", "tar", "systemd-run", "apt-get" if _is_apt(host) else "dnf"}
    return bare(
        distro=host["id"],
        distro_version=str(host["version"]),
        distro_name=f"{host['id']} {host['version']}",
        kernel=host["kernel"],
        arch=host.get("arch", "x86_64"),
        virtualisation=host.get("virtualisation", "none"),
        pci=tuple(pci),
        driver=_driver(case),
        packages={str(k): str(v) for k, v in case.get("packages", {}).items()},
        tools=frozenset(tools),
        system=_system(case.get("system", {})),
    )


def _is_apt(host: Mapping[str, Any]) -> bool:
    return host["id"] in ("debian", "ubuntu")


def _device(index: int, card: str, kind: str, bound: str | None) -> PciDevice:
    return PciDevice(f"0000:{index + 1:02x}:00.0", _CLASSES[kind], "10de", card, "10de:0000", bound)


def _driver(case: Mapping[str, Any]) -> Driver:
    """`driver:` of a case: version (all parts), or loaded, disk, library; rc, rows, uvm, open."""
    facts = case.get("driver", {})
    version = facts.get("version")
    loaded = facts.get("loaded", version)
    rows = facts.get("rows", len(case.get("cards", ())) if loaded and not facts.get("rc") else 0)
    return Driver(
        loaded=loaded,
        open_module=facts.get("open", True),
        uvm_loaded=facts.get("uvm", bool(loaded)),
        on_disk=facts.get("disk", version),
        library=facts.get("library", version),
        nouveau=case.get("bound") in ("nouveau", "nova_core"),
        blacklisted_at_boot=facts.get("blacklisted_at_boot", False),
        smi_rc=facts.get("rc", 0 if loaded else 127),
        gpus=tuple(_row(i, str(loaded), facts.get("health", {})) for i in range(rows)),
        processes=(),
        disk_open=facts.get("disk_open"),
        holders=tuple(GpuHolder(**holder) for holder in facts.get("holders", ())),
        kernel_log=tuple(facts.get("log", ())),
    )


def _row(index: int, version: str, health: dict[str, str]) -> SmiGpu:
    bus_id = f"00000000:{index + 1:02X}:00.0"
    return SmiGpu(index, "GPU", f"GPU-{index}", bus_id, version, 24576, 0, (8, 9), health)


def _system(facts: Mapping[str, Any]) -> System:
    return System(
        marks=frozenset(facts.get("marks", ())),
        headers=facts.get("headers", True),
        other_kernels=facts.get("other_kernels", {}),
        free_mib=facts.get("free_mib", {}),
        sessions=tuple(DesktopSession(**session) for session in facts.get("sessions", ())),
        workloads=tuple(facts.get("workloads", ())),
        held=frozenset(facts.get("held", ())),
        broken=frozenset(facts.get("broken", ())),
        record=facts.get("record", {}),
    )
