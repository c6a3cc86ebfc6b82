"""Simulated hardware of a lab host: the files its kernel would show, and the commands around them.

`write_tree` makes the files of one host, `binds` says where they go in it, `install_guest` puts
the simulated kernel commands (lab/guest) into a base image.
"""

import math
import shutil
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.shell import run
from lab.signing import public_key
from lab.spec import GpuSpec, HostSpec


@dataclass(frozen=True)
class Kernel:
    """`release` is what uname -r prints, `version` what uname -v prints."""

    release: str
    version: str


KERNELS: dict[str, Kernel] = {
    "bookworm": Kernel("6.1.0-44-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026-03-09)"),
    "trixie": Kernel("6.12.57+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.57-1 (2025-11-05)"),
}

GUEST = paths.SOURCE / "guest"
SIMULATED_COMMANDS = (
    "uname",
    "nproc",
    "systemd-detect-virt",
    "modprobe",
    "modinfo",
    "rmmod",
    "lsmod",
    "depmod",
)
_LAB_DIR = "usr/lib/r1lab"
# What a server has besides GPUs: bdf, vendor:device, class. One is a display of another vendor.
_DECOYS = (
    ("0000:00:00.0", "8086:09a2", 0x060000),
    ("0000:00:1f.2", "8086:a182", 0x010601),
    ("0000:f0:00.0", "144d:a80a", 0x010802),
    ("0000:f1:00.0", "8086:1563", 0x020000),
    ("0000:f2:00.0", "1a03:2000", 0x030000),
)
_VGA, _3D_CONTROLLER, _AUDIO = 0x030000, 0x030200, 0x040300
# Device ids of the HDMI audio function beside the GPU (source: pci.ids).
_AUDIO_DEVICE = {"2204": "1aef", "2684": "22ba", "1b06": "10ef"}
_MIB = 1024 * 1024


def write_tree(name: str, host: HostSpec, gpus: tuple[GpuSpec, ...], sim: Path) -> None:
    """Write the simulated kernel files of host `name` to `sim`, with no module loaded.

    Runs before each boot. Anything that was there is replaced; the same input gives the same
    files (a card keeps its UUID).
    """
    if sim.exists():
        shutil.rmtree(sim)
    for folder in ("pci", "pci-drivers", "module", "proc-driver"):
        (sim / folder).mkdir(parents=True)
    kernel = KERNELS[host.release]
    (sim / "meminfo").write_text(_meminfo(host.memory_mib))
    (sim / "osrelease").write_text(f"{kernel.release}\n")
    (sim / "version").write_text(
        f"Linux version {kernel.release} (simulated by the r1fleet lab) {kernel.version}\n"
    )
    (sim / "modules").write_text("")
    _write_host_facts(sim / "lab", kernel, host.cores, _gpu_lines(name, gpus))
    if host.nouveau:
        (sim / "lab/nouveau").touch()
    for bdf, ids, pci_class in _DECOYS:
        _write_pci_device(sim / "pci" / bdf, ids, "1028:0001", pci_class, bar1_mib=1)
    for index, gpu in enumerate(gpus):
        _write_gpu(sim / "pci", index, gpu)


def binds(sim: Path) -> list[tuple[Path, str, bool]]:
    """What to bind into a host: (source, path in the host, read-only)."""
    always = [
        (sim / "meminfo", "/proc/meminfo", True),
        (sim / "version", "/proc/version", True),
        (sim / "osrelease", "/proc/sys/kernel/osrelease", True),
        (sim / "pci", "/sys/bus/pci/devices", False),
        (sim / "pci-drivers", "/sys/bus/pci/drivers", False),
        (sim / "module", "/sys/module", False),
        (sim / "proc-driver", "/proc/driver", False),
        (sim / "lab", f"/{_LAB_DIR}/host", True),
        (GUEST, f"/{_LAB_DIR}/bin", True),
    ]
    # A kernel built without modules, as small virtual machines have, lacks this file.
    if Path("/proc/modules").exists():
        always.append((sim / "modules", "/proc/modules", True))
    return always


def install_guest(root: Path) -> None:
    """Make the base image `root` a lab host: simulated commands, kernel files, kernel repository.

    Comes last in making a base, because it replaces uname. Can be repeated.
    """
    release = _codename(root)
    kernel = KERNELS[release]
    lab = root / _LAB_DIR
    shutil.copytree(GUEST, lab / "bin", dirs_exist_ok=True)
    shutil.copy(GUEST / "README", lab / "README")
    for folder in ("shapes", "simgpu"):
        (lab / folder).mkdir(exist_ok=True)
    # For commands run in the image itself; a booted host has its own bound over it.
    _write_host_facts(lab / "host", kernel, cores=1, gpu_lines=[])
    for command in SIMULATED_COMMANDS:
        _divert(root, command)
    _link_command(root / "usr/sbin/update-initramfs")
    nouveau = root / f"usr/lib/modules/{kernel.release}/kernel/drivers/gpu/drm/nouveau/nouveau.ko"
    nouveau.parent.mkdir(parents=True, exist_ok=True)
    nouveau.write_text(
        "simulated by the r1fleet lab: not a kernel module\nlicense=GPL and additional rights\n"
    )
    _install_boot_unit(root)
    _install_kernel_repository(root, release)


def kernel_repo_url(release: str) -> str:
    """Address of the flat repository with the simulated kernel's headers and dkms."""
    return f"{paths.artifact_url()}/kernel/{release}/"


def _codename(root: Path) -> str:
    lines = (root / "etc/os-release").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def _write_host_facts(folder: Path, kernel: Kernel, cores: int, gpu_lines: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel").write_text(f"{kernel.release}\n{kernel.version}\n")
    (folder / "cores").write_text(f"{cores}\n")
    (folder / "gpus").write_text("".join(gpu_lines))


def _gpu_bdf(index: int) -> str:
    return f"0000:{index + 1:02x}:00.0"


def _gpu_lines(host: str, gpus: tuple[GpuSpec, ...]) -> list[str]:
    """index|bdf|name|memory_mib|compute capability|uuid|pci device|subsystem|MIG, one per card.

    MIG is a list of profile=MiB=uuid, comma separated, mostly empty.
    """
    lines = []
    for index, gpu in enumerate(gpus):
        facts = (index, _gpu_bdf(index), gpu.name, gpu.memory_mib, gpu.compute_capability)
        parts = ",".join(
            f"{profile}={mib}=MIG-{_serial(host, index, profile)}"
            for profile, mib in gpu.mig.items()
        )
        rest = (f"GPU-{_serial(host, index)}", gpu.pci, gpu.subsystem, parts)
        lines.append("|".join(map(str, (*facts, *rest))) + "\n")
    return lines


def _serial(host: str, index: int, profile: str = "") -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{profile}{index}.{host}.r1lab.invalid")


def _write_gpu(pci: Path, index: int, gpu: GpuSpec) -> None:
    bdf = _gpu_bdf(index)
    if "GeForce" not in gpu.name:
        whole_card_mib = 2 ** math.ceil(math.log2(gpu.memory_mib or 1))
        _write_pci_device(pci / bdf, gpu.pci, gpu.subsystem, _3D_CONTROLLER, whole_card_mib)
        return
    _write_pci_device(pci / bdf, gpu.pci, gpu.subsystem, _VGA, bar1_mib=256)
    audio = "10de:" + _AUDIO_DEVICE.get(gpu.pci[5:], "228b")
    _write_pci_device(pci / f"{bdf[:-1]}1", audio, gpu.subsystem, _AUDIO, bar1_mib=1)


def _write_pci_device(
    folder: Path, ids: str, subsystem: str, pci_class: int, bar1_mib: int
) -> None:
    """One PCI device as sysfs shows it; `bar1_mib` is the size of its second memory region."""
    vendor, device = (int(part, 16) for part in ids.split(":"))
    sub_vendor, sub_device = (int(part, 16) for part in subsystem.split(":"))
    base, sub, interface = pci_class >> 16, pci_class >> 8 & 0xFF, pci_class & 0xFF
    folder.mkdir()
    files = {
        "vendor": f"{vendor:#06x}",
        "device": f"{device:#06x}",
        "subsystem_vendor": f"{sub_vendor:#06x}",
        "subsystem_device": f"{sub_device:#06x}",
        "class": f"{pci_class:#08x}",
        "revision": "0xa1",
        "irq": "16",
        "modalias": f"pci:v{vendor:08X}d{device:08X}sv{sub_vendor:08X}sd{sub_device:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}",
        "resource": _resource(bar1_mib),
    }
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    header = struct.pack("<HHHHBBBB", vendor, device, 7, 0x10, 0xA1, interface, sub, base)
    tail = struct.pack("<HH", sub_vendor, sub_device)
    (folder / "config").write_bytes((header.ljust(0x2C, b"\0") + tail).ljust(64, b"\0"))


def _resource(bar1_mib: int) -> str:
    """Lines of start, end and flags: BAR0 16 MiB, BAR1 (64 bit, prefetchable), BAR3 32 MiB."""
    regions = [(0xA0000000, 16, 0x40200), (0x20000000000, bar1_mib, 0x14220C), (0, 0, 0)]
    regions += [(0x30000000000, 32, 0x14220C)] + [(0, 0, 0)] * 9
    return "\n".join(
        f"{start:#018x} {start + size * _MIB - 1 if size else 0:#018x} {flags:#018x}"
        for start, size, flags in regions
    )


def _meminfo(memory_mib: int) -> str:
    total = memory_mib * 1024
    used = min(total // 10, 1200 * 1024)
    figures = {
        "MemTotal": total,
        "MemFree": total - used - total // 50,
        "MemAvailable": total - used,
        "Buffers": 20480,
        "Cached": total // 50,
        "SwapCached": 0,
        "Active": used // 2,
        "Inactive": used // 4,
        "SwapTotal": 0,
        "SwapFree": 0,
        "Dirty": 64,
        "Shmem": 8192,
        "Slab": 102400,
        "CommitLimit": total // 2,
        "Committed_AS": used,
        "Hugepagesize": 2048,
    }
    return "".join(f"{key + ':':<15} {value:>8} kB\n" for key, value in figures.items())


def _divert(root: Path, command: str) -> None:
    """Move every copy of `command` to NAME.real, known to dpkg, and link the simulated one."""
    owners = run("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-S", f"*bin/{command}")
    for line in owners.splitlines():
        owner, path = line.split(": ", 1)
        if owner.startswith("diversion") or not path.endswith(f"bin/{command}"):
            continue
        divert = ("dpkg-divert", "--root", str(root), "--local", "--rename", "--add")
        run(*divert, "--divert", f"{path}.real", path)
        _link_command(root / path[1:])


def _link_command(place: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(f"/{_LAB_DIR}/bin/{place.name}")


def _install_boot_unit(root: Path) -> None:
    units = root / "etc/systemd/system"
    (units / "r1lab-kernel.service").write_text((GUEST / "r1lab-kernel.service").read_text())
    wants = units / "sysinit.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    link = wants / "r1lab-kernel.service"
    link.unlink(missing_ok=True)
    link.symlink_to("../r1lab-kernel.service")


def _install_kernel_repository(root: Path, release: str) -> None:
    """Headers and dkms come from the lab: those of the archive would bring a compiler."""
    key = "usr/share/keyrings/r1lab-kernel.gpg"
    files = {
        "etc/apt/sources.list.d/r1lab-kernel.list": (
            f"# Simulated kernel packages of the r1fleet lab.\n"
            f"deb [signed-by=/{key}] {kernel_repo_url(release)} ./\n"
        ),
        "etc/apt/preferences.d/r1lab-kernel": (
            "Package: *\nPin: release l=r1lab-kernel\nPin-Priority: 1001\n"
        ),
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / key).parent.mkdir(parents=True, exist_ok=True)
    (root / key).write_bytes(public_key())
