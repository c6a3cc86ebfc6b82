"""The fleet of this run: settings of all hosts checked, every host probed once, at the same time.

deploy.py is executed once per host, in greenlets that share the imported modules. The first one
does the work for all, the others wait for it.
"""

import atexit
import os
import signal
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from paramiko import SSHException
from pyinfra import host, logger, state
from pyinfra.api import Host, State
from pyinfra.api.exceptions import PyinfraError

from r1fleet import elevate, history, holes, live, outcome, passwords, probe
from r1fleet.bundle import contents
from r1fleet.bundle.contents import BundleError
from r1fleet.gateway import pool
from r1fleet.gateway.tokens import TokensError
from r1fleet.hostfacts import Probe
from r1fleet.lock import LockError
from r1fleet.mirror.plan import GROUP, Fleet, MirrorWanted, join
from r1fleet.mirror.through import Source
from r1fleet.probe import ProbeError
from r1fleet.settings import (
    Settings,
    SettingsError,
    check_canaries,
    locked,
    read,
    read_all,
)
from r1fleet.settings_sources import LoginError
from r1fleet.sudo_password import SudoPasswordError
from r1fleet.words import plain

if TYPE_CHECKING:  # what plans for the hosts is imported while they answer
    from r1fleet.adopt.plan import Taking

EXIT_SETTINGS = 2
LOOK = "look at the host, then run again"
PROBE_LIMIT_S = 180  # two calls of nvidia-smi may take a minute each


@dataclass
class HostRun:
    """One host of the run: its settings and what the probe saw, refreshed after a change."""

    host: Host
    settings: Settings
    probe: Probe | None = None
    trouble: str = ""  # why there is no probe
    fix: str = LOOK  # and what to do then
    rehearsing: bool = False  # the generator is only read for its steps, nothing is executed
    seen_changes: int = 0
    moved: bool = False  # what a former model directory holds has been taken along
    adopting: "tuple[Taking, ...]" = ()  # what this run takes over
    mirror: MirrorWanted | None = None  # what it should be of a mirror
    mirror_host: str | None = None  # the host of this run whose mirror it uses
    source: Source = field(default_factory=Source)
    balancers: tuple[str, ...] = ()  # the fleet gateways of this run

    @property
    def address(self) -> str:
        """By which others reach the host."""
        return str(self.host.data.get("ssh_hostname") or self.host.name)

    @property
    def balances(self) -> bool:
        """Whether the host is a fleet gateway."""
        return self.host.name in self.balancers

    @property
    def stale(self) -> bool:
        """Whether this run has changed the host since it was last probed."""
        return not self.rehearsing and self.seen_changes != len(outcome.of(self.host.name).changes)

    def look(self) -> Probe | None:
        """Probe the host (again). None, with the reason in the outcome, when it has no answer."""
        try:
            script = probe.command(self.settings.ollama_models, self.settings.base_url)
            self.probe = probe.parse(elevate.answer(self.host, script, timeout_s=PROBE_LIMIT_S))
        except elevate.NotBegun as error:
            self.probe, self.trouble, self.fix = None, error.why, error.fix
        except (ProbeError, PyinfraError, OSError, EOFError, SSHException) as error:
            text = plain(str(error)) or type(error).__name__
            self.probe, self.trouble, self.fix = None, text, LOOK
        found = outcome.of(self.host.name)
        self.seen_changes = len(found.changes)
        if self.probe:
            found.probe = self.probe
        return self.probe


class _Fleet:
    def __init__(self) -> None:
        self.begun = False
        self.ready = Event()
        self.runs: dict[str, HostRun] = {}


_fleet = _Fleet()


def observe() -> HostRun:
    """Check the settings of the whole inventory and probe all reachable hosts, once per run.

    Returns the part of the host whose deploy.py this is. Wrong settings end the process with
    exit code 2 before any host is asked anything.
    """
    if not _fleet.begun:
        _fleet.begun = True
        _begin(state.inventory.get_host(host.name).state)
    _fleet.ready.wait()
    return _fleet.runs[host.name]


def everyone() -> Mapping[str, HostRun]:
    """All hosts of the run, as observed."""
    return _fleet.runs


def _begin(whole: State) -> None:
    hosts = [member for member in whole.inventory if whole.is_host_in_limit(member)]
    data = {member.name: member.data.dict() for member in hosts}  # type: ignore[no-untyped-call]
    if lines := passwords.refused(data, whole.config):
        stop(lines)
    try:
        settings = locked(read_all(data))
        check_canaries(settings, [member.name for member in whole.inventory])
        balancing = balancers(hosts, settings)
        shared = any(one.expose == "gateway" for one in settings.values())
        for name, member_settings in settings.items():
            _ = member_settings.registry_authorization  # before any host is asked anything
            if member_settings.expose == "gateway" or (shared and name in balancing):
                _ = member_settings.gateway_store.for_host("")
        fleet = with_mirrors(list(whole.inventory), settings)
        for place in sorted({one.bundle for one in settings.values() if one.bundle}):
            contents.read(place)
        elevate.prepare(data, whole.config)  # last: it may ask a person
    except (SettingsError, BundleError) as error:
        stop(error.lines)
    except (LockError, LoginError, TokensError, SudoPasswordError) as error:
        stop([str(error)])
    _leave_in_order()
    settings = {member.name: fleet.settings[member.name] for member in hosts}
    _fleet.runs = {
        member.name: HostRun(
            member,
            settings[member.name],
            mirror=fleet.mirrors.get(member.name),
            mirror_host=fleet.first if fleet.first in settings else None,
            balancers=balancing,
        )
        for member in hosts
    }
    _tell_of_gateways_outside(whole, settings)
    now = datetime.now(UTC)
    for name, member_settings in settings.items():
        outcome.of(name).maintenance = member_settings.in_maintenance(now)
        if over := member_settings.maintenance_is_over(now):
            outcome.of(name).warnings.append(over)
        if holes_of_it := holes.warning(member_settings.engine_version):
            outcome.of(name).warnings.append(holes_of_it)
        if member_settings.listens_beyond_loopback:
            outcome.of(name).warnings.append(
                f"expose is open: Ollama listens on {member_settings.ollama_host} and asks nobody"
                " for a password"
            )
    active = [_fleet.runs[member.name] for member in whole.inventory.get_active_hosts()]
    live.prepare(whole, tuple(run.host.name for run in active))
    looks = [gevent.spawn(run.look) for run in active if not outcome.of(run.host.name).maintenance]
    gevent.sleep(0)  # sends them off
    from r1fleet import report  # noqa: PLC0415  slow to import, and the hosts are at work

    report.at_exit(whole, settings)
    import r1fleet.gate  # noqa: PLC0415
    import r1fleet.report_table  # noqa: PLC0415
    import r1fleet.rollout  # noqa: F401, PLC0415

    gevent.joinall(looks, raise_error=True)
    _fleet.ready.set()


def _tell_of_gateways_outside(whole: State, settings: Mapping[str, Settings]) -> None:
    """What hosts of this run change, fleet gateways outside of its limit do not learn."""
    groups = whole.inventory.groups
    left_out = sorted({one.name for one in groups.get(pool.GROUP, ())} - set(settings))
    if left_out and any(one.expose == "gateway" for one in settings.values()):
        logger.warning(
            f"the fleet gateway {', '.join(left_out)} is outside of this run's limit and learns of"
            " no new pool: run again with it when hosts have changed"
        )


def balancers(hosts: Collection[Host], settings: Mapping[str, Settings]) -> tuple[str, ...]:
    """The hosts of the inventory's group `gateway`.

    Raises SettingsError for one that should have a gateway before its own engine as well.
    """
    members = tuple(member.name for member in hosts if pool.GROUP in member.groups)
    both = [name for name in members if settings[name].serve and settings[name].expose == "gateway"]
    if both:
        raise SettingsError(
            [
                f"{name}: expose: a fleet gateway cannot be one before its own engine, too; set"
                " serve: False or expose: local there"
                for name in both
            ]
        )
    return members


def with_mirrors(inventory: Collection[Host], settings: Mapping[str, Settings]) -> Fleet:
    """The settings with what the inventory's group `mirror` means for them; a mirror that is
    outside of this run's limit serves as well."""
    members = [member.name for member in inventory if GROUP in member.groups]
    addresses = {
        member.name: member.data.get("ssh_hostname") or member.name for member in inventory
    }
    beyond = {
        member.name: read(member.name, member.data.dict())  # type: ignore[no-untyped-call]
        for member in inventory
        if member.name in members and member.name not in settings
    }
    return join({**settings, **beyond}, addresses, members)


def stop(lines: list[str]) -> Any:
    """End the process at once: other greenlets' exits would print tracebacks."""
    for line in lines:
        logger.error(line)
    logger.error("nothing was touched")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_SETTINGS)


def _leave_in_order() -> None:
    """However the run ends, hosts that it holds are given back: by Ctrl-C, a kill, a closed
    terminal (unless nohup took care of that), or by an exception anywhere in it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
    atexit.register(history.interrupted)


def _interrupted(number: int, _: object) -> None:
    """Leave with 128 and the signal's number (pyinfra itself would say 0 after Ctrl-C); a second
    one leaves at once."""
    signal.signal(number, lambda *_: os._exit(128 + number))
    # A handler may not wait, and giving leases back takes a moment.
    gevent.spawn(_leave, 128 + number)


def _leave(code: int) -> None:
    """Give the hosts back and say what goes on without us. It ends the process in any case."""
    try:
        history.interrupted()
        from r1fleet import report  # noqa: PLC0415

        report.show(interrupted=True)
        logger.error("interrupted; what has begun on a host goes on there, the next run follows it")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
