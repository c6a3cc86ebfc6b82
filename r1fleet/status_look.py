"""Looking at a host for `status` and `doctor`: the question, and what its answer says."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyinfra.api import Host

    from r1fleet.hostfacts import Probe
    from r1fleet.reach import Answer, Fleet


def question(fleet: "Fleet") -> "Callable[[Host], Probe]":
    """What `Fleet.ask` puts to each host: the probe."""
    from r1fleet.fleet import HostRun  # noqa: PLC0415
    from r1fleet.reach import NoAnswer  # noqa: PLC0415

    def ask(host: "Host") -> "Probe":
        run = HostRun(host, fleet.settings[host.name])
        if probe := run.look():
            return probe
        raise NoAnswer(f"{run.trouble}; {run.fix}")

    return ask


def row(fleet: "Fleet", host: "Host", answer: "Answer[Probe]", now: datetime) -> dict[str, Any]:
    """A host's row of `r1fleet status`, from its answer."""
    from r1fleet import decide, lease, outcome, rollout, status_data  # noqa: PLC0415
    from r1fleet.drift import find  # noqa: PLC0415
    from r1fleet.fleet import HostRun  # noqa: PLC0415
    from r1fleet.remove import strays  # noqa: PLC0415

    probe, settings = answer.value, fleet.settings[host.name]
    left = settings.in_maintenance(now)
    if probe is None and left:
        return status_data.silent_row(host.name, "maintenance", left)
    if probe is None:
        verdict = "failed" if answer.is_reached else "unreachable"
        return status_data.silent_row(host.name, verdict, answer.reason)
    outcome.forget(host.name)
    try:
        mirror = fleet.mirrors.get(host.name)
        run = HostRun(host, settings, probe, mirror=mirror, balancers=fleet.balancers)
        pending, refusal = rollout.preview(run)
        choice = decide.size(settings, probe).sizing.choice if settings.serve else None
        drift = find(settings, probe, choice, pending, now)
    except Exception as error:  # a strange host is no reason to show nothing of the others
        reason = f"its state cannot be judged: {type(error).__name__}: {error}"
        return status_data.silent_row(host.name, "failed", reason)
    members = fleet.state.inventory
    addresses = {str(member.data.get("ssh_hostname") or member.name) for member in members}
    names = {member.name for member in members}
    strange = strays.warnings(probe, settings, names, addresses)
    warnings = [*outcome.of(host.name).warnings, *strange]
    made = status_data.row(
        host.name,
        settings,
        probe,
        choice,
        drift,
        pending,
        refusal,
        warnings,
        now,
        is_left=lease.is_left(probe),
    )
    return made | {"verdict": "maintenance", "reason": left} if left else made
