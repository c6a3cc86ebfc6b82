"""What must hold before the lab touches a machine; everything that does not is named at once."""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from lab import cgroups, network
from lab.base import find_base
from lab.hosts import CAPACITY
from lab.paths import (
    APT_PROXY_PORT,
    ARTIFACT_PORT,
    GATEWAY,
    REGISTRY_PORT,
    SOURCE,
    cache_dir,
    lab_dir,
)
from lab.shell import LabError, Refusal, run
from lab.spec import LabSpec

Progress = Callable[[str], None]

# Program (or file) the lab runs, and the Debian package it comes in.
PROGRAMS: Mapping[str, str] = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nginx": "nginx-light",
    "docker-registry": "docker-registry",
    "zstd": "zstd",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
    "apt-ftparchive": "apt-utils",
    "dpkg-deb": "dpkg",
    "cmake": "cmake",
    "ninja": "ninja-build",
    "g++": "g++",
}

# Debian starts these when they are installed; the lab runs its own, on its own addresses.
SERVICES: Mapping[str, str] = {"nginx-light": "nginx", "docker-registry": "docker-registry"}

# There only where systemd is PID 1; its programs are also on machines that another init booted.
SYSTEMD_RUNS = Path("/run/systemd/system")

# Base images, the engine with its build tree, models and the package cache, with room to spare.
CACHE_BYTES = 6 * 10**9
# What a host writes by itself: packages, engine, journal.
HOST_BYTES = 3 * 10**8

IP_FREEBIND = 15


def missing_programs() -> dict[str, str]:
    """Programs that are not here, with the package of each."""
    return {program: package for program, package in PROGRAMS.items() if not _found(program)}


def install_programs(progress: Progress) -> None:
    """Install what is missing through apt-get.

    Raises Refusal naming programs and packages where there is no apt-get, or when it fails.
    """
    missing = missing_programs()
    if not missing:
        return
    packages = sorted(set(missing.values()))
    if shutil.which("apt-get") is None:
        raise Refusal(
            f"missing programs: {', '.join(missing)}; this machine has no apt-get: install them "
            f"with its own package manager (Debian calls the packages {' '.join(packages)})"
        )
    progress(f"apt-get install {' '.join(packages)}")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        # A mirror that cannot be reached is no fault as long as the lists here will do.
        with suppress(LabError):
            run("apt-get", "update", "-q", env=quiet, timeout_s=600)
        install = ("apt-get", "install", "-q", "-y", "--no-install-recommends")
        run(*install, *packages, env=quiet, timeout_s=1800)
    except LabError as error:
        raise Refusal(f"packages of the lab cannot be installed: {error}") from error
    for package, service in SERVICES.items():
        if package in packages and SYSTEMD_RUNS.exists():
            run("systemctl", "disable", "--now", service)


def preflight(spec: LabSpec) -> None:
    """Raise Refusal with one line per reason why the lab cannot run here; touches nothing."""
    reasons = [*_system(), *_disk(spec)]
    if not reasons:
        reasons = [*network.conflicts(), *_ports()]
    if len(spec.hosts) > CAPACITY:
        reasons.append(
            f"the lab file has {len(spec.hosts)} hosts, the network has room for {CAPACITY}; "
            "take some out"
        )
    if reasons:
        raise Refusal("\n".join(reasons))


def require_linux() -> None:
    """Raise Refusal on any other system."""
    if platform.system() != "Linux":
        raise Refusal(
            f"the lab boots Linux hosts and needs a Linux kernel, this is {platform.system()}; "
            "run it on a Linux machine or in a virtual one"
        )


def _found(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else bool(shutil.which(program))


def _system() -> list[str]:
    reasons = []
    if not cgroups.hierarchies():
        reasons.append(
            f"no control groups at {cgroups.ROOT}, systemd needs them; "
            "mount them, or use a machine that systemd booted"
        )
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        reasons.append(
            "root may not mount here (a container without rights?); "
            "use a machine, a virtual machine or a privileged container"
        )
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        with suppress(LabError):
            run("modprobe", "overlay")
        if "overlay" not in Path("/proc/filesystems").read_text().split():
            reasons.append("the kernel has no overlay file system; use a distribution's kernel")
    for path, variable in ((lab_dir(), "R1_LAB_DIR"), (cache_dir(), "R1_CACHE_DIR")):
        if set(str(path)) & set(':,\\" '):
            reasons.append(
                f"{path}: mount options cannot carry this name; set {variable} to a plain one"
            )
    if set(str(SOURCE)) & set(":\\"):
        reasons.append(f"{SOURCE}: mounts cannot carry this name; move the checkout")
    if run("stat", "-f", "-c", "%T", str(_nearest(lab_dir()))).strip() in ("overlayfs", "tmpfs"):
        reasons.append(
            f"{lab_dir()} is not on a disk file system, hosts cannot write there; "
            "set R1_LAB_DIR to a folder that is"
        )
    return reasons


def _disk(spec: LabSpec) -> list[str]:
    built = all(find_base(host.release) for host in spec.hosts.values())
    new_hosts = [name for name in spec.hosts if not (lab_dir() / "hosts" / name).exists()]
    needs: dict[int, tuple[Path, int]] = {}
    for path, size_bytes in (
        (_nearest(cache_dir()), 0 if built else CACHE_BYTES),
        (_nearest(lab_dir()), HOST_BYTES * len(new_hosts)),
    ):
        device = path.stat().st_dev
        first, before_bytes = needs.get(device, (path, 0))
        needs[device] = (first, before_bytes + size_bytes)
    return [
        f"too little disk at {path}: the lab needs {need / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB are free; free some, or set R1_CACHE_DIR and R1_LAB_DIR elsewhere"
        for path, need in needs.values()
        if need > (free := shutil.disk_usage(path).free)
    ]


def _ports() -> list[str]:
    """Ports of the lab that another program holds on every address of the machine."""
    if network.is_up():
        return []
    reasons = []
    for port in (REGISTRY_PORT, ARTIFACT_PORT, APT_PROXY_PORT):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The lab's address does not exist yet.
            listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            try:
                listener.bind((GATEWAY, port))
                listener.listen()
            except OSError:
                reasons.append(
                    f"port {port} is in use on all addresses of this machine and the lab serves "
                    f"there; see who with: ss -ltnp sport = :{port}, and end it"
                )
    return reasons


def _nearest(path: Path) -> Path:
    """The folder itself or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
