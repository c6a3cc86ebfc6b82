"""What to do about a host's driver: pure, from the probe and the settings."""

from dataclasses import dataclass, replace
from typing import Literal

from r1fleet.driver import commands, foreign
from r1fleet.driver.choice import Wanted, choose
from r1fleet.driver.foreign import Stop
from r1fleet.driver.health import Fault, fault
from r1fleet.driver.strangers import stranger
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings

Action = Literal["none", "skip", "refuse", "change"]


@dataclass(frozen=True)
class DriverPlan:
    """What to do about the driver, and why.

    + action: none, skip (the driver is not ours; `usable` says whether it works), refuse or change
    + commands: for the packages, as they are run; empty when only the module is at fault
    + packages: what they install
    + reboot: it is known before that a reboot will be needed
    + warning: to be said, whatever else is done
    """

    action: Action
    reason: str
    fix: str = ""
    title: str = ""
    branch: int = 0
    flavour: str = ""
    packages: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    reboot: bool = False
    usable: bool = True
    warning: str = ""


def plan(probe: Probe, settings: Settings) -> DriverPlan:
    """The driver plan of a host: nothing to do, skip, refuse, or change."""
    if not probe.nvidia_gpus:
        away = {device.driver or "" for device in probe.pci if device.is_nvidia_gpu}
        owners = ", ".join(sorted(away))
        return DriverPlan("skip", f"its GPUs belong to {owners}" if away else "no NVIDIA GPU")
    found = fault(probe, settings.driver_min_version)
    asked = _asked(probe, settings)
    if found is None and not asked:
        return DriverPlan("none", f"driver {probe.driver.loaded} works")
    if stop := foreign.owner(probe):
        return DriverPlan("skip", stop.why, stop.fix, usable=found is None)
    return _guarded(_change(probe, settings, found, asked), probe, settings)


def _change(probe: Probe, settings: Settings, found: Fault | None, asked: str) -> DriverPlan | Stop:
    """What puts a fault right, or brings what is asked for."""
    if found and found.repair == "person":
        return Stop(found.what, found.fix)
    if settings.driver_rollback:
        return _rollback(probe)
    if found and found.repair not in ("packages", "fabric") and not asked:
        return DriverPlan("change", found.what)
    return _packages(probe, settings, found, asked)


def _asked(probe: Probe, settings: Settings) -> str:
    """What the settings ask of a driver that works, "" when it is as they say."""
    driver = probe.driver
    if settings.driver_rollback:
        return "" if _is_rolled_back(probe) else "driver_rollback is set"
    if settings.driver_branch and driver.library_branch not in (0, settings.driver_branch):
        return f"branch {driver.library_branch} is installed, {settings.driver_branch} is asked for"
    has = "open" if driver.open_module else "proprietary"
    if driver.loaded and settings.driver_flavour not in ("auto", has):
        return f"the {has} modules are loaded, {settings.driver_flavour} is asked for"
    if settings.driver_hold and driver.library and not _driver_packages(probe) <= _held(probe):
        return "the driver's packages are not held"
    return ""


def _packages(
    probe: Probe, settings: Settings, found: Fault | None, asked: str
) -> DriverPlan | Stop:
    if found and found.repair == "fabric" and not asked:
        return _fabric_manager(probe, settings, found.what)
    wanted = choose(probe, settings)
    if isinstance(wanted, Stop):
        return wanted
    if stop := foreign.obstacle(probe, wanted.way.signed):
        return stop
    holds_only = found is None and "not held" in asked
    ready = DriverPlan(
        "change",
        found.what if found else asked,
        title=f"installs branch {wanted.branch}, {wanted.flavour} modules",
        branch=wanted.branch,
        flavour=wanted.flavour,
        packages=commands.packages(wanted, probe),
        commands=() if holds_only else commands.install(wanted, probe, settings),
    )
    return _allowed(_with_holds(ready, wanted, probe, settings), wanted, probe, settings)


def _fabric_manager(probe: Probe, settings: Settings, reason: str) -> DriverPlan | Stop:
    """The fabric manager of a sound driver: that driver stays the one it is."""
    branch = {"driver_branch": probe.driver.library_branch}
    wanted = choose(probe, settings.model_copy(update=branch))
    if isinstance(wanted, Stop):
        return wanted
    listed = commands.fabric(wanted, probe)
    if not listed:
        return Stop(reason, f"{probe.distro_name} has none from {wanted.way.origin}: install it")
    ready = DriverPlan(
        "change",
        reason,
        title=f"installs the fabric manager {probe.driver.library}",
        packages=tuple(wanted.fill(name, probe) for name in wanted.way.fabric),
        commands=listed,
    )
    return _allowed(_with_holds(ready, wanted, probe, settings), wanted, probe, settings)


def _with_holds(
    ready: DriverPlan, wanted: Wanted, probe: Probe, settings: Settings
) -> DriverPlan | Stop:
    """The plan with r1fleet's own holds let go before, and put on after where they are wanted."""
    if stop := _foreign_hold(probe):
        return stop
    manager, listed = wanted.way.manager, [*ready.commands]
    if probe.system.held and listed and probe.system.record.get("held"):
        listed.insert(0, commands.unhold(manager))
    if settings.driver_hold:
        listed.append(commands.hold(manager))
    return replace(ready, commands=tuple(listed))


def _allowed(
    ready: DriverPlan | Stop, wanted: Wanted, probe: Probe, settings: Settings
) -> DriverPlan | Stop:
    """The plan, unless its distribution is not proven and nobody has said to go on."""
    if isinstance(ready, Stop) or wanted.way.proven:
        return ready
    unproven = f"plan not yet proven on {probe.distro_name} ({wanted.way.source})"
    if settings.driver_allow_unproven:
        return replace(ready, warning=unproven)
    return DriverPlan(
        "refuse",
        unproven,
        "check the commands above, then set driver_allow_unproven: true",
        packages=ready.packages,
        commands=ready.commands,
        usable=False,
    )


def _guarded(ready: DriverPlan | Stop, probe: Probe, settings: Settings) -> DriverPlan:
    """The plan, unless it would hurt others or needs a reboot that may not be."""
    if isinstance(ready, Stop):
        return _refusal(ready)
    if ready.action != "change" or only_holds(ready):
        return ready
    if stop := stranger(probe, settings.driver_stop_others):
        return _refusal(stop)
    reboot = blocked(probe)
    if reboot and settings.driver_reboot == "never":
        return _refusal(
            Stop(
                "another driver holds the GPU: the change needs a reboot, driver_reboot is never",
                "set driver_reboot to auto or ask",
            )
        )
    return replace(ready, reboot=reboot)


def only_holds(ready: DriverPlan) -> bool:
    """Whether nothing but holds is changed: the driver itself stays as it is."""
    return bool(ready.commands) and all(map(commands.is_of_holds, ready.commands))


def blocked(probe: Probe) -> bool:
    """Whether another driver has a GPU: it goes away by a reboot only."""
    held = any(gpu.driver not in (None, "nvidia") for gpu in probe.nvidia_gpus)
    return probe.driver.nouveau or held


def _refusal(stop: Stop) -> DriverPlan:
    return DriverPlan("refuse", stop.why, stop.fix, usable=False)


def _driver_packages(probe: Probe) -> set[str]:
    """Installed packages of the driver, and the kernels that it must agree with."""
    kernels = ("linux-image-", "linux-headers-", "kernel-devel")
    return {name for name in probe.packages if is_part(name) or name.startswith(kernels)}


def is_part(package: str) -> bool:
    """Whether a package is a part of the driver."""
    parts = ("nvidia", "libcuda", "cuda-drivers", "libnvcuvid1", "libnvoptix1")
    return any(part in package for part in parts)


def _held(probe: Probe) -> set[str]:
    """Held packages; a pattern of dnf's versionlock (with a *) stands for all of ours."""
    held = set(probe.system.held)
    return _driver_packages(probe) if any("*" in name for name in held) else held


def _foreign_hold(probe: Probe) -> Stop | None:
    """Packages that someone else has put on hold: r1fleet's own are in its record."""
    names = sorted(set(probe.system.held) & _driver_packages(probe))
    if not names or probe.system.record.get("held"):
        return None
    return Stop(
        f"packages are held, not by r1fleet: {', '.join(names)}",
        f"apt-mark unhold {' '.join(names)} (dnf: dnf versionlock delete), then run again",
    )


def _rollback(probe: Probe) -> DriverPlan | Stop:
    record = probe.system.record
    before = {str(name): str(version) for name, version in record.get("before", {}).items()}
    if not before:
        return Stop(
            "there is no driver to go back to: none was recorded before a change",
            "set driver_rollback to false",
        )
    manager = "apt" if "apt-get" in probe.tools else "dnf"
    now = {name for name in probe.packages if is_part(name)}
    return DriverPlan(
        "change",
        "driver_rollback is set",
        title="brings back the driver from before the last change",
        packages=tuple(sorted(before)),
        commands=commands.roll_back(before, now, manager),
    )


def _is_rolled_back(probe: Probe) -> bool:
    before = probe.system.record.get("before", {})
    return all(probe.packages.get(name) == version for name, version in before.items())
