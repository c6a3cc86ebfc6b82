"""The operations of remove.py: gateways are told, hosts are drained, then r1fleet goes."""

from collections.abc import Generator
from functools import partial
from typing import Any

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import fleet, history, outcome, paths
from r1fleet.adopt.back import bring_back
from r1fleet.drain import drain
from r1fleet.driver.install import INITRAMFS
from r1fleet.engine.install import SERVICE_USER
from r1fleet.fleet import HostRun
from r1fleet.gateway import balance
from r1fleet.gateway import install as gateway
from r1fleet.hostfacts import Probe
from r1fleet.leased import leased, rehearse
from r1fleet.longstep import RUN_DIR, long_step
from r1fleet.mirror.plan import USER as MIRROR_USER
from r1fleet.remote import HostFailure, changed, fail, host_task, run, say, step, warn
from r1fleet.remove import plan as planning
from r1fleet.remove import scripts, who
from r1fleet.remove.plan import Removal
from r1fleet.shell import assign
from r1fleet.watch import install as watch

Commands = Generator[FunctionCommand, None, None]
UNIT = "r1fleet-driver-away"
NOTHING = "nothing of r1fleet is on it"
AFTER = "take it out of the inventory too, or the next deploy.py makes it anew"


@operation()
def farewell(host_run: HostRun) -> Commands:
    """Tell a fleet gateway that stays which hosts go. Other hosts only wait.

    + host_run: the host's part of the run
    """
    runs = fleet.everyone()
    stays = who.staying(runs).get(host_run.host.name)
    if stays is None:
        return
    _confirm(host_run)
    found = outcome.of(host_run.host.name)
    _note(host_run, f"it stays: it balances over {', '.join(stays)}")
    plan = partial(_without, gone=who.leaving(runs))
    yield from _planned(host_run, plan)
    found.done = True


def _without(host_run: HostRun, gone: list[str]) -> Commands:
    if host_run.probe:
        yield from balance.stage(host_run, host_run.probe, gone=gone)


@operation()
def take_away(host_run: HostRun) -> Commands:
    """Take r1fleet away from a host, under its lease; what stays is told.

    + host_run: the host's settings and its probe, from `fleet.observe`

    It yields no command where nothing of r1fleet is there. One that was cut off is ended by the
    next run.
    """
    found = outcome.of(host_run.host.name)
    if found.maintenance or host_run.host.name in who.staying(fleet.everyone()):
        return
    _confirm(host_run)
    yield from _planned(host_run, _plan)
    found.done = True


def _planned(host_run: HostRun, plan: Any) -> Commands:
    if not host_run.host.state.is_executing:
        found = outcome.of(host_run.host.name)
        found.pending, found.refusal = rehearse(host_run, plan)
    yield from leased(host_run, plan)


def _confirm(host_run: HostRun) -> None:
    """End the run before anything is touched, unless the number of hosts was given with it."""
    state = host_run.host.state
    if not state.is_executing:
        return
    names = who.leaving(fleet.everyone())
    given = "remove" in state.inventory.override_data
    if lines := who.unconfirmed(names, host_run.settings.remove, given):
        fleet.stop(lines)


def _plan(host_run: HostRun) -> Commands:
    probe, settings = host_run.probe, host_run.settings
    if probe is None:
        yield fail("probe", host_run.trouble, host_run.fix)
        return
    if not planning.is_there(probe, settings):
        _note(host_run, NOTHING)
        return
    if why := balance.trouble(host_run):
        yield fail("fleet gateway", why, "it still sends requests to this host; run again")
    fetching = who.users_of_mirror(host_run, fleet.everyone(), who.first_mirror(host_run))
    if refused := planning.refusal(probe, settings, fetching):
        yield fail(*refused)
    goes = planning.removal(probe, settings)
    for line in (*goes.stays, AFTER):
        _note(host_run, line)
    yield step("remove", "looks for packages being installed", _at_work(), "run again when it ends")
    yield from watch.remove._inner(probe)  # first: it starts an engine again that is not well
    yield from drain._inner(probe, settings.drain_timeout_s)
    yield from _services(goes, probe, settings.mirror_dir)
    yield from bring_back._inner(probe.state, goes.models_dir, SERVICE_USER)
    yield from _rest(goes)
    yield from _end(host_run, goes)


def _services(goes: Removal, probe: Probe, mirror_dir: str) -> Commands:
    """What runs, in the order in which requests come to it."""
    if goes.gateway:
        yield from gateway.remove._inner(probe)
    if goes.engine:
        yield step(
            "remove",
            "stops Ollama and takes it away",
            scripts.ENGINE,
            "see to ollama.service on the host",
            change="Ollama removed",
            timeout_s=300,
        )
    if goes.mirror:
        values = {"DIR": mirror_dir, "ACCOUNT": MIRROR_USER, "UNIT": planning.MIRROR_UNIT}
        yield step(
            "remove",
            "takes the mirror away, with what it holds",
            assign(values) + scripts.MIRROR,
            f"see to {planning.MIRROR_UNIT} on the host",
            change="mirror removed",
            timeout_s=900,
        )


def _rest(goes: Removal) -> Commands:
    """What lies there."""
    if goes.models:
        yield step(
            "remove",
            f"removes the models in {goes.models_dir}",
            assign({"MODELS": goes.models_dir}) + scripts.MODELS,
            "remove them by hand",
            change="models removed",
            timeout_s=900,
        )
    if goes.user:
        yield step(
            "remove",
            f"removes the user {SERVICE_USER}",
            assign({"ACCOUNT": SERVICE_USER, "MODELS": goes.models_dir, "DIR": paths.ENGINE_HOME})
            + scripts.USER,
            f"end what runs as {SERVICE_USER}, then run again",
            change=f"user {SERVICE_USER} removed",
            timeout_s=300,
        )
    if goes.unhold:
        yield step(
            "remove",
            f"lets go of {len(goes.unhold)} held packages",
            assign({"NAMES": " ".join(goes.unhold)}) + scripts.UNHOLD,
            "see apt-mark(8)",
            change="holds removed",
        )
    if goes.tools:
        yield purge("remove", f"removes the packages {', '.join(goes.tools)}", goes.tools)
    if goes.driver:
        yield long_step(
            "remove",
            f"removes the driver: {', '.join(goes.driver)}",
            UNIT,
            assign(
                {
                    "NAMES": " ".join(goes.driver),
                    "DROPIN": paths.PERSISTENCED_DROPIN,
                    "FILES": " ".join(paths.DRIVER_FILES),
                }
            )
            + scripts.DRIVER
            + INITRAMFS,
            f"see {RUN_DIR}/{UNIT}.out on the host",
            change="driver removed",
        )


@host_task
def purge(host: Host, stage: str, title: str, names: tuple[str, ...]) -> None:
    """Remove packages, unless others have come to need them."""
    say(host, stage, title)
    answer = run(host, assign({"NAMES": " ".join(names)}) + scripts.TOOLS, timeout_s=900)
    if not answer.ok:
        raise HostFailure(title, answer.reason, "see apt-get(8)")
    word, _, others = answer.stdout.strip().rpartition("\n")[2].partition(" ")
    if word == "kept":
        warn(host, f"the packages {', '.join(names)} stay: {others} would go with them")
    elif word == "removed":
        changed(host, "packages removed")


def _end(host_run: HostRun, goes: Removal) -> Commands:
    """The proof that all has gone, then the state and what else knows of it."""
    if not host_run.rehearsing and host_run.host.state.is_executing:
        probe = host_run.look()
        if probe is None:
            yield fail("probe", host_run.trouble, "run again")
        elif probe.engine_versions or probe.gateway.versions:
            yield fail("remove", "not all of it has gone", "run again")
    yield history.close_for_good(
        "remove",
        "removes its settings, scripts, state and history",
        assign({"NOTES_STAY": "yes" if goes.notes_stay else ""}) + scripts.STATE,
        f"remove {paths.STATE_DIR} by hand",
    )


def _at_work() -> str:
    return assign({"UNITS": " ".join(planning.AT_WORK)}) + scripts.AT_WORK


def _note(host_run: HostRun, text: str) -> None:
    """Once: a host is planned more than once in a run."""
    notes = outcome.of(host_run.host.name).notes
    notes += [text] if text not in notes else []
