"""A simulated host in a folder: its kernel files, and its commands run with R1LAB_ROOT."""

import os
import shutil
import subprocess
from pathlib import Path

from lab import hardware, paths, spec

VERSION = "580.178.04"
NVIDIA_SMI = paths.SOURCE / "driver_packages/files/nvidia-smi"
OPEN, PROPRIETARY = "Dual MIT/GPL", "NVIDIA"


class LabTree:
    """The files of one host of the default lab below `root`."""

    def __init__(self, root: Path, name: str, cards: tuple[spec.GpuSpec, ...] | None = None):
        self.root = root
        lab = spec.load()
        host = lab.hosts[name]
        self.kernel = hardware.KERNELS[host.release].release
        sim = root.parent / "sim"
        hardware.write_tree(name, host, lab.gpus_of(name) if cards is None else cards, sim)
        for source, target, _ in hardware.binds(sim):
            place = root / target[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True)
            else:
                shutil.copy(source, place)
        for folder in ("dev", "etc/modprobe.d", "etc/modules-load.d", "boot"):
            (root / folder).mkdir(parents=True)
        (root / "proc/sys/kernel/hostname").write_text(f"{name}\n")

    def run(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a simulated kernel command, or nvidia-smi."""
        path = self.root / "usr/lib/r1lab/bin" / command
        program = NVIDIA_SMI if command == "nvidia-smi" else path
        environment = os.environ | {"R1LAB_ROOT": str(self.root)}
        return subprocess.run(
            ["sh", str(program), *args],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, license_: str = OPEN, version: str = VERSION) -> None:
        """Put library and modules of a driver on the disk, as its packages do."""
        folder = self.root / f"lib/modules/{self.kernel}/updates/dkms"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("nvidia", "nvidia-uvm"):
            (folder / f"{name}.ko").write_text(f"version={version}\nlicense={license_}\n")
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        shutil.rmtree(libraries, ignore_errors=True)
        libraries.mkdir(parents=True)
        (libraries / f"libnvidia-ml.so.{version}").touch()

    def install_nouveau(self) -> None:
        folder = self.root / f"lib/modules/{self.kernel}/kernel/drivers/gpu/drm/nouveau"
        folder.mkdir(parents=True)
        (folder / "nouveau.ko").write_text("license=GPL and additional rights\n")

    def add_process(self, pid: int, comm: str, **environ: str) -> None:
        folder = self.root / f"proc/{pid}"
        folder.mkdir()
        (folder / "comm").write_text(f"{comm}\n")
        text = "".join(f"{key}={value}\0" for key, value in environ.items())
        (folder / "environ").write_text(text)
        (folder / "cmdline").write_text(f"/opt/lib/ollama/{comm}\0--model\0x\0")

    def driver_of(self, bdf: str) -> str | None:
        link = self.root / "sys/bus/pci/devices" / bdf / "driver"
        return link.readlink().name if link.is_symlink() else None

    def loaded(self) -> set[str]:
        return {entry.name for entry in (self.root / "sys/module").iterdir()}
