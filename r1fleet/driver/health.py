"""What is wrong with a host's driver, and what of it is worth a warning: pure, from the probe."""

import re
from dataclasses import dataclass
from typing import Literal

from r1fleet import catalog
from r1fleet.driver.look import version_key
from r1fleet.hostfacts import Driver, Probe, SmiGpu

# What puts it right: packages (install, finish or build them), the fabric manager's package alone,
# the module in the kernel (load, reload), the driver's services, or nothing that a run may do.
Repair = Literal["packages", "fabric", "load", "reload", "services", "person"]

FABRIC_UNIT = "nvidia-fabricmanager.service"

# Exit codes of nvidia-smi (its manual page; 124 and 137 are timeout's).
MISMATCH, LOST = 18, 15
HUNG = (124, 137)
_CODES = {
    2: "refused its arguments",
    4: "has no permission",
    6: "sees no GPU",
    8: "misses a power cable on a GPU",
    9: "cannot reach the kernel module",
    10: "reports an interrupt problem of a GPU",
    12: "finds no libnvidia-ml.so",
    13: "finds a library without a function it needs",
    14: "reports a damaged infoROM",
    LOST: "reports a GPU that fell off the bus",
    MISMATCH: "reports that library and kernel module differ",
}
# What an Xid asks for (NVIDIA's Xid catalogue); the others only tell that something happened.
_XIDS = {
    **dict.fromkeys((13, 31, 43, 45), "an application failed on it"),
    **dict.fromkeys((48, 94, 95), "uncorrectable memory error; restart what runs on it"),
    63: "a row of its memory is remapped at the next reset",
    64: "remapping a row of its memory failed: have it replaced",
    74: "NVLink error",
    79: "it fell off the bus: power the host off and on",
    **dict.fromkeys((46, 62, 109, 119, 120, 140), "reset it (nvidia-smi -r), else reboot"),
}
_XID = re.compile(r"Xid \(PCI:([0-9a-fA-F:]+)(?:\.\d)?\): (\d+)")

_WRONG_FLAVOUR = ("requires use of the NVIDIA open kernel modules", "not supported by open")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and what puts it right. `fix` is for a person."""

    what: str
    repair: Repair
    fix: str = ""


def fault(probe: Probe, min_version: str | None = None) -> Fault | None:
    """The first thing that keeps a host's GPUs from being used; None for a healthy driver.

    Healthy: loaded module == module on disk == library, every GPU of the bus in nvidia-smi,
    nvidia_uvm loaded, a version that serves the cards, the engine and `min_version`, and on
    NVSwitch hosts a running fabric manager of exactly that version.
    """
    return (
        _packages(probe)
        or _module(probe)
        or _gpus(probe)
        or _version(probe, min_version)
        or _fabric(probe)
    )


def _packages(probe: Probe) -> Fault | None:
    driver = probe.driver
    if probe.system.broken:
        names = ", ".join(sorted(probe.system.broken))
        return Fault(f"packages are half installed: {names}", "packages")
    if driver.smi_rc == 127 and driver.loaded is None:
        return Fault("no driver is installed", "packages")
    if driver.smi_rc in (12, 127):
        return Fault("the driver's library or nvidia-smi is missing", "packages")
    if driver.on_disk is None and driver.loaded is None:
        return Fault(f"no module was built for kernel {probe.kernel}", "packages")
    return None


def _module(probe: Probe) -> Fault | None:
    driver = probe.driver
    if driver.loaded is None:
        return Fault("the driver is installed but not loaded", "load")
    if driver.smi_rc in HUNG:
        return Fault(
            "nvidia-smi hangs", "person", "power the host off and on; 'dmesg | grep Xid' names it"
        )
    if driver.on_disk and driver.library and driver.on_disk != driver.library:
        return Fault(
            f"library {driver.library} and the module on disk, {driver.on_disk}, differ", "packages"
        )
    return _loaded_module(driver)


def _loaded_module(driver: Driver) -> Fault | None:
    installed = driver.library or driver.on_disk
    if installed and driver.loaded != installed:
        return Fault(f"module {driver.loaded} is loaded, {installed} is installed", "reload")
    if driver.disk_open not in (None, driver.open_module):
        return Fault("the loaded module is of another flavour than the one on disk", "reload")
    if any(text in line for line in driver.kernel_log[-2:] for text in _WRONG_FLAVOUR):
        return Fault("the loaded module is of the wrong flavour for a GPU", "packages")
    return None


def _gpus(probe: Probe) -> Fault | None:
    driver = probe.driver
    on_bus, usable = len(probe.nvidia_gpus), len(driver.gpus)
    if driver.smi_rc == MISMATCH:
        return Fault(f"nvidia-smi {_CODES[MISMATCH]}", "reload")
    if driver.smi_rc == LOST or (driver.smi_rc == 0 and usable < on_bus):
        names = ", ".join(missing(probe))
        return Fault(
            f"nvidia-smi lists {usable} of {on_bus} GPUs (not {names})",
            "reload" if _unbound(probe) else "person",
            "a GPU that fell off the bus comes back with power off and on, or is broken",
        )
    if driver.smi_rc != 0:
        said = _CODES.get(driver.smi_rc, driver.smi_message or "failed")
        fix = "'dmesg | grep NVRM' on the host tells more"
        repair: Repair = "reload" if driver.smi_rc in (6, 9) else "person"
        return Fault(f"nvidia-smi {said} (exit code {driver.smi_rc})", repair, fix)
    if not driver.uvm_loaded:
        return Fault("the module nvidia_uvm is not loaded, and CUDA needs it", "load")
    return None


def _version(probe: Probe, min_version: str | None) -> Fault | None:
    driver = probe.driver
    version = driver.loaded or ""
    rows = [catalog.drivers().flavour(gpu.device) for gpu in probe.nvidia_gpus]
    least = max((row.first_branch for row in rows), default=0)
    if version_key(version)[0] < least:
        return Fault(f"driver {version} is too old: Ollama and these GPUs need {least}", "packages")
    if min_version and version_key(version) < version_key(min_version):
        return Fault(f"driver {version} is older than driver_min_version {min_version}", "packages")
    return None


def _fabric(probe: Probe) -> Fault | None:
    """Without its fabric manager a host with NVSwitch shows all GPUs, and CUDA fails (802)."""
    if not probe.has_nvswitch:
        return None
    names = ("nvidia-fabricmanager", "nvidia-fabric-manager")
    versions = [v for name, v in probe.packages.items() if name.startswith(names)]
    library = probe.driver.library or ""
    if not any(version.startswith(f"{library}-") for version in versions):
        has = f"its version is {versions[0]}" if versions else "it is missing"
        return Fault(
            f"the GPUs are joined by NVSwitch and need a fabric manager {library}: {has}", "fabric"
        )
    if probe.unit(FABRIC_UNIT).active != "active":
        return Fault(
            "the GPUs are joined by NVSwitch, and nvidia-fabricmanager is not running",
            "services",
            "journalctl -u nvidia-fabricmanager on the host tells more",
        )
    return None


def missing(probe: Probe) -> list[str]:
    """PCI addresses of GPUs that nvidia-smi does not list."""
    listed = {_short(row.bus_id) for row in probe.driver.gpus}
    return [gpu.bdf for gpu in probe.nvidia_gpus if _short(gpu.bdf) not in listed]


def _unbound(probe: Probe) -> bool:
    """Whether a GPU that is not listed has no driver at all: then it was never taken up."""
    lost = missing(probe)
    return any(gpu.driver != "nvidia" for gpu in probe.nvidia_gpus if gpu.bdf in lost)


def _short(address: str) -> str:
    """A PCI address without leading zeros of its domain: sysfs has 4 digits, nvidia-smi 8."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain.lstrip('0')}:{rest}"


def warnings(probe: Probe) -> list[str]:
    """What works now and asks for attention, each naming the GPU."""
    driver = probe.driver
    parted = {instance.gpu_index for instance in driver.mig}
    found = [line for gpu in driver.gpus for line in _gpu_warnings(gpu, gpu.index in parted)]
    found += [_xid(line, driver.gpus) for line in driver.kernel_log if "Xid" in line]
    found += [
        f"kernel {kernel} has no driver module: after a reboot into it the GPUs are gone;"
        f" dkms autoinstall -k {kernel}"
        for kernel, has_module in probe.system.other_kernels.items()
        if not has_module
    ]
    return found


def _xid(line: str, gpus: tuple[SmiGpu, ...]) -> str:
    """A line of the kernel's log with the GPU that it speaks of, and what it asks for."""
    match = _XID.search(line)
    if not match:
        return f"kernel log: {line}"
    address, number = _short(match[1]), int(match[2])
    known = (_name(gpu) for gpu in gpus if _short(gpu.bus_id).startswith(address))
    meaning = f", {_XIDS[number]}" if number in _XIDS else ""
    return f"{next(known, f'GPU {match[1]}')}: Xid {number}{meaning} ({line})"


def _name(gpu: SmiGpu) -> str:
    return f"GPU {gpu.index} ({gpu.name}, {gpu.bus_id})"


def _gpu_warnings(gpu: SmiGpu, has_instances: bool) -> list[str]:
    health, name = gpu.health, _name(gpu)
    found = []
    current, pending = health.get("ecc.mode.current"), health.get("ecc.mode.pending")
    if {current, pending} == {"Enabled", "Disabled"}:
        found.append(f"{name}: ECC will be {str(pending).lower()} after a reset or reboot")
    errors = health.get("ecc.errors.uncorrected.volatile.total", "0")
    if errors.isdigit() and int(errors):
        found.append(f"{name}: {errors} uncorrected memory errors since the last reset")
    if health.get("remapped_rows.pending") in ("1", "Yes"):
        found.append(f"{name}: a row of its memory is remapped at the next reset or reboot")
    if health.get("remapped_rows.failure") in ("1", "Yes"):
        found.append(f"{name}: remapping a row of its memory failed: have it replaced")
    if health.get("retired_pages.pending") == "Yes":
        found.append(f"{name}: pages of its memory are retired at the next reboot")
    if health.get("reset_status.reset_required") == "Yes":
        found.append(f"{name}: it asks for a reset (nvidia-smi -r with no process on it)")
    if health.get("mig.mode.current") == "Enabled" and not has_instances:
        found.append(f"{name}: MIG is on and has no instance: CUDA sees nothing of it")
    state = health.get("fabric.state", "N/A")
    if state in ("Not Started", "In Progress"):
        found.append(f"{name}: NVLink fabric state {state}: CUDA fails with error 802 until done")
    return found
