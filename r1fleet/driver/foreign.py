"""Hosts whose driver is not ours to change, and hosts that cannot take one: pure."""

from dataclasses import dataclass

from r1fleet.hostfacts import Probe

CONTAINERS = ("lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "container-other")
_JETSON_GPU = "2b00"  # Thor
_SPARK_GPU = "2e12"

# mark or distribution -> (whose driver it is, what to do)
_OWNERS = {
    "wsl": (
        "WSL2: the driver belongs to Windows",
        "install or update NVIDIA's driver for Windows; never a Linux one",
    ),
    "tegra": (
        "a Jetson: its driver comes with JetPack",
        "update JetPack; a newer public driver does not exist for it",
    ),
    "dgx": (
        "DGX OS: its driver comes with NVIDIA's own packages",
        "follow the DGX OS guide, for example: apt-get install nvidia-system-mlnx-drivers",
    ),
    "gpu-operator": (
        "the GPU operator manages its driver",
        "change the driver version in the operator's ClusterPolicy",
    ),
    "vgpu-guest": (
        "a vGPU guest: only the driver of its host's licence fits",
        "install the GRID driver of the cloud or of the vGPU licence",
    ),
    "vgpu-host": (
        "it hands GPUs to virtual machines (vGPU or SR-IOV)",
        "leave its driver to the hypervisor's own guide",
    ),
    "ostree": (
        "its system image is immutable (ostree)",
        "layer the driver into the image: rpm-ostree install, or a derived image",
    ),
    "transactional": (
        "its root is changed only by transactions",
        "transactional-update pkg install the driver, then reboot",
    ),
    "bottlerocket": ("Bottlerocket is an immutable image", "use its nvidia variant"),
    "talos": ("Talos is an immutable image", "add NVIDIA's system extension to its image"),
}


@dataclass(frozen=True)
class Stop:
    """Why the driver stage does nothing on a host, and what a person can do."""

    why: str
    fix: str


def owner(probe: Probe) -> Stop | None:
    """Whose the driver is, when it is not ours; None for a host that we may change."""
    ids = {gpu.device for gpu in probe.nvidia_gpus}
    marks = set(probe.system.marks) | {probe.distro}
    if probe.virtualisation == "wsl":
        marks.add("wsl")
    if _JETSON_GPU in ids:
        marks.add("tegra")
    if _SPARK_GPU in ids:
        marks.add("dgx")
    for mark, (why, fix) in _OWNERS.items():
        if mark in marks:
            return Stop(why, fix)
    if probe.virtualisation in CONTAINERS:
        return Stop(
            f"a container ({probe.virtualisation}): its kernel is not its own",
            "install the driver on the machine that runs it and pass the GPU in",
        )
    if "read-only" in marks:
        return Stop("/usr is mounted read-only", "build the driver into the host's image")
    return None


# What an installation needs beside its packages' own size: the unpacked driver with a build of
# its module, the downloaded packages, and one initramfs per kernel.
_NEEDED_MIB = {"/usr": 2048, "/var": 1024, "/boot": 100}


def obstacle(probe: Probe, signed: bool) -> Stop | None:
    """What would break a change half-way; `signed`: the modules need no key of the host's own."""
    marks = probe.system.marks
    if "runfile" in marks:
        return Stop(
            "a driver was installed from NVIDIA's .run file, and mixes with no package",
            "run nvidia-uninstall on the host, reboot, then run again",
        )
    if "secure-boot" in marks and "mok" not in marks and not signed:
        return Stop(
            "Secure Boot is on and no key of this host is enrolled: its modules would not load",
            "mokutil --import /var/lib/dkms/mok.pub, reboot, confirm at the console, run again;"
            " or switch Secure Boot off",
        )
    if not probe.system.headers and not signed:
        return Stop(
            f"no headers are to be had for the running kernel {probe.kernel}",
            "boot the newest kernel of the distribution, then run again",
        )
    for path, needed in _NEEDED_MIB.items():
        free = _free_mib(probe, path)
        if free is not None and free < needed:
            return Stop(
                f"{path} has {free} MiB free, a driver needs {needed}", "make room, then run again"
            )
    return None


def _free_mib(probe: Probe, path: str) -> int | None:
    free = probe.system.free_mib
    return free.get(path, free.get("/"))
