"""Who else uses a host: a driver is not changed, and no host rebooted, under others' work. Pure."""

from collections.abc import Iterable

from r1fleet.driver.foreign import Stop
from r1fleet.hostfacts import GpuHolder, Probe

# What r1fleet stops and starts itself, and what is part of the driver.
OURS = (
    *("ollama.service", "r1fleet-preload.service", "r1fleet-watch.service"),
    *("nvidia-persistenced.service", "nvidia-fabricmanager.service"),
)
# Units that people's own processes run in: never to be stopped for one of them.
_LOGINS = ("ssh", "user@", "getty@", "serial-getty@", "console-getty", "cron", "systemd-")


def strangers(probe: Probe) -> list[GpuHolder]:
    """Processes that have a GPU open and are not r1fleet's."""
    return [holder for holder in probe.driver.holders if holder.unit not in OURS]


def to_stop(probe: Probe, names: Iterable[str]) -> dict[GpuHolder, str]:
    """Those strangers that the settings allow to be stopped -> the unit that was named for it.

    "" where the process was named: then only it is ended. Its unit may be the SSH daemon's.
    """
    wanted, found = set(names), {}
    for holder in strangers(probe):
        if {holder.unit, holder.unit.removesuffix(".service")} & wanted:
            found[holder] = holder.unit
        elif holder.name in wanted:
            found[holder] = ""
    return found


def stranger(probe: Probe, may_stop: Iterable[str]) -> Stop | None:
    """Why the driver may not be changed now: who works on a GPU, or sits at the screen."""
    allowed = to_stop(probe, may_stop)
    others = [holder for holder in strangers(probe) if holder not in allowed]
    if others:
        names = ", ".join(_holder(holder) for holder in others)
        stop = " ".join(sorted({_stop_name(holder) for holder in others}))
        return Stop(
            f"the GPU is in use by {names}", f"end it, or set driver_stop_others to: {stop}"
        )
    if probe.system.sessions:
        names = ", ".join(f"{session.user} ({session.kind})" for session in probe.system.sessions)
        return Stop(f"someone is logged in on a desktop: {names}", "log out, then run again")
    return None


def shared(probe: Probe) -> str:
    """What else lives on a host that a reboot would end; "" when only r1fleet's service does."""
    who = [_holder(holder) for holder in strangers(probe)]
    who += [f"the desktop of {session.user}" for session in probe.system.sessions]
    return ", ".join([*who, *probe.system.workloads])


def _holder(holder: GpuHolder) -> str:
    return f"{holder.name} (pid {holder.pid}, user {holder.user}, {age(holder.age_s)} old)"


def _stop_name(holder: GpuHolder) -> str:
    is_login = holder.unit.startswith(_LOGINS)
    return holder.unit if holder.unit.endswith(".service") and not is_login else holder.name


def age(seconds: int) -> str:
    """A time span in its two largest units: "3 h 12 min"."""
    for unit, name, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // smaller} {small}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"
