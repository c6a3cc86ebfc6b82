"""Operations of the driver stage: packages, then the module in the kernel, then the proof."""

from collections.abc import Generator
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.driver.plan import REPLACEABLE, DriverPlan, healthy
from r1fleet.driver.reboot import reboot
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.managed import ManagedFile, write
from r1fleet.remote import fail, step
from r1fleet.shell import assign, export

Commands = Generator[FunctionCommand, None, None]

BLACKLIST = ManagedFile(
    paths.MODPROBE_CONF,
    "# Written by r1fleet: these hold the GPU before NVIDIA's module can.\n"
    "blacklist nouveau\nblacklist nova_core\nblacklist nova_drm\noptions nouveau modeset=0\n",
)
MODULES = ManagedFile(
    paths.MODULES_LOAD_CONF,
    "# Written by r1fleet: nvidia_uvm is not loaded by itself, and CUDA needs it.\n"
    "nvidia\nnvidia_uvm\n",
)

_LOAD = """
modprobe nvidia && modprobe nvidia_uvm || exit 1
command -v nvidia-modprobe >/dev/null && nvidia-modprobe -u -c=0
systemctl start nvidia-persistenced.service 2>/dev/null || :
"""


@operation()
def install(probe: Probe, plan: DriverPlan) -> Commands:
    """Install the planned packages, the blacklist and the list of modules to load.

    + probe: the host as it is
    + plan: from `driver.plan.plan`
    """
    wanted = {"install": (BLACKLIST, MODULES), "load": (MODULES,)}.get(plan.action, ())
    differing = [file for file in wanted if file.differs(probe.files)]
    yield from write("driver", differing)
    if plan.action == "install" and any(
        package not in probe.packages for package in plan.all_packages
    ):
        yield long_step(
            "driver",
            f"installs branch {plan.branch}, {plan.flavour} modules",
            "r1fleet-driver",
            _script(plan),
            "see the packages' own messages in /run/r1fleet/r1fleet-driver.out on the host",
            change=f"driver {plan.branch} ({plan.flavour})",
        )
    if BLACKLIST in differing:
        yield _initramfs()


@operation()
def activate(probe: Probe, plan: DriverPlan, may_reboot: bool = True) -> Commands:
    """Bring the installed module into the kernel: by modprobe, else by one reboot.

    + probe: the host after `install`
    + plan: as for `install`
    + may_reboot: False fails the host with "reboot pending" instead
    """
    driver = probe.driver
    if plan.action not in ("install", "load") or healthy(probe):
        return
    if plan.action == "install" and not driver.on_disk:
        yield fail(
            "driver",
            f"the packages are there but no module was built for kernel {probe.kernel}",
            "install its headers, then: dkms autoinstall",
        )
    held = driver.nouveau or any(gpu.driver in REPLACEABLE for gpu in probe.nvidia_gpus)
    stale = driver.loaded is not None and driver.loaded != driver.on_disk
    if not held and not stale:
        yield step(
            "driver",
            "loads the module",
            _LOAD,
            "dmesg on the host tells more",
            change=f"module {driver.on_disk or 'nvidia_uvm'} loaded",
        )
        return
    if held and driver.blacklisted_at_boot:
        # It was so at this boot, too: one more reboot would change nothing.
        yield fail(
            "driver",
            "nouveau holds the GPU although it was blacklisted at boot",
            "look for it in the initramfs and on the kernel's command line",
        )
    reason = "nouveau holds the GPU" if held else f"module {driver.loaded} is still loaded"
    if not may_reboot:
        yield fail("driver", f"reboot pending: {reason}", "reboot the host, then run again")
    yield _initramfs()  # again: a run that was killed may have left it out
    yield reboot("driver", f"reboots: {reason}", probe.boot_id)


def _initramfs() -> FunctionCommand:
    return step(
        "driver",
        "rebuilds the initramfs",
        "if command -v update-initramfs >/dev/null; then update-initramfs -u -k all; fi",
        "run update-initramfs -u -k all on the host",
        timeout_s=900,
    )


@operation()
def prove(probe: Probe) -> Commands:
    """Fail the host unless every GPU of the PCI bus can be used, by a driver that is new enough.

    + probe: the host after `activate`
    """
    if not probe.nvidia_gpus or healthy(probe):
        return
    on_bus, usable = len(probe.nvidia_gpus), len(probe.driver.gpus)
    if usable != on_bus:
        why = f"nvidia-smi lists {usable} of {on_bus} GPUs (exit code {probe.driver.smi_rc})"
    elif not probe.driver.uvm_loaded:
        why = "the module nvidia_uvm is not loaded, and CUDA needs it"
    else:
        why = f"driver {probe.driver.loaded} is older than Ollama needs"
    yield fail("driver", why, "nvidia-smi and 'journalctl -k | grep NVRM' on the host tell more")


def _script(plan: DriverPlan) -> str:
    head = export(plan.proxies) + assign(
        {
            "KEYRING_URL": plan.keyring_url,
            "KEYRING_SHA256": plan.keyring_sha256 or "",
            "PINNING": plan.pinning,
            "PACKAGES": " ".join(plan.packages),
        }
    )
    return head + (resources.files("r1fleet.driver") / "install.sh").read_text(encoding="ascii")
