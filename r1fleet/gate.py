"""The waves of a run, and the gate before each: it opens when the last wave was proven."""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pyinfra import logger
from pyinfra.api import FunctionCommand, operation

from r1fleet import fleet, lease, outcome, rollout, waves
from r1fleet.fleet import HostRun
from r1fleet.gateway import balance
from r1fleet.hardware import hardware
from r1fleet.mirror import install as mirror
from r1fleet.outcome import Outcome
from r1fleet.remote import fail
from r1fleet.settings import Settings
from r1fleet.waves import Member

NAMES_MOST = 10  # in one line

# Settings that say nothing of what a host should be, or what differs from host to host anyway.
_NO_TARGET = {"maintenance", "steal", "report", "verify_max_age_s", "pull_rate_limit"}
_NO_TARGET |= {"driver_keyring_sha256", "gateway_name", "gateway_certificate", "gateway_key"}
_NO_TARGET |= {"sudo_password"}


@dataclass(frozen=True)
class Step:
    """One turn of the loop in deploy.py: a wave, with the first also those that wait for none."""

    number: int

    def __str__(self) -> str:
        plan = outcome.rollout.plan or waves.Plan()
        return str(plan.waves[self.number]) if len(plan.waves) > 1 else "all at once"

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts whose turn it is."""
        return (outcome.rollout.plan or waves.Plan()).group(self.number)

    def open_to(self, run: HostRun) -> Callable[[], bool]:
        """For `_if`: whether the rollout still goes on, which hosts outside of it need not ask."""

        def is_open() -> bool:
            found = outcome.rollout
            if found.plan and not found.stopped and (reason := balance.trouble(run)):
                _stop(found.plan, self.number, reason)
            waits = found.plan is None or run.host.name not in found.plan.at_once
            return not (found.stopped and waits)

        return is_open


def steps() -> Iterator[Step]:
    """The turns of this run, planned once, from all hosts as they were observed."""
    if outcome.rollout.plan is None:
        runs = fleet.everyone()
        settings = next(iter(runs.values())).settings
        members = [_member(run) for run in runs.values()]
        outcome.rollout.plan = waves.plan(members, settings.rollout_canary, settings.rollout_batch)
    return map(Step, range(outcome.rollout.plan.steps))


@operation()
def gate(run: HostRun, step: Step) -> Generator[FunctionCommand, None, None]:
    """Let the next wave begin, or stop the rollout and say why.

    + run: the host's part of the run
    + step: the turn that would begin

    It yields nothing while the rollout goes on, but on fleet gateways: they are told what the last
    wave has become, and who goes next. When it stops, the first host that would have
    been next says so, and fails, so that the exit code is 1 in every case.
    """
    plan = outcome.rollout.plan
    if run.balances and plan and step.number and not outcome.rollout.stopped:
        yield from balance.again(run, plan.waves[step.number].hosts)
    if not (run.host.state.is_executing and plan and plan.waves and not outcome.rollout.stopped):
        return
    if run.host.name != plan.waves[step.number].hosts[0]:
        return
    limits = run.settings
    before = plan.waves[: step.number]
    reason = plan.blocked or waves.stop_reason(
        before,
        {host: outcome.of(host).ending for wave in before for host in wave.hosts},
        max_failed=limits.rollout_max_failed,
        max_unreachable=limits.rollout_max_unreachable,
    )
    if reason is None:
        if before and limits.rollout_pause_s:
            logger.info(f"the rollout waits {limits.rollout_pause_s} s before {step}")
            time.sleep(limits.rollout_pause_s)
        return
    place = _stop(plan, step.number, reason)
    yield fail(f"the rollout was {place}", reason, outcome.rollout.fix)


def _stop(plan: waves.Plan, number: int, reason: str) -> str:
    """Stop the rollout before a wave; returns where that is."""
    before, after = plan.waves[:number], plan.waves[number:]
    hosts = [host for wave in after for host in wave.hosts]
    place = f"stopped after {before[-1]}" if before else "not begun"
    found = outcome.rollout
    found.stopped, found.fix = f"the rollout was {place}: {reason}", _fix(hosts, bool(before))
    for host in hosts:
        outcome.of(host).untouched = found.stopped
    return place


def _fix(hosts: Sequence[str], begun: bool) -> str:
    """What to do about a rollout that stopped before these hosts."""
    names = ", ".join(hosts[:NAMES_MOST])
    more = f" and {len(hosts) - NAMES_MOST} more" if len(hosts) > NAMES_MOST else ""
    what = "put right what failed" if begun else "bring those back or name others"
    return f"untouched: {names}{more}; {what}, or take the change back, then run again to go on"


def _member(run: HostRun) -> Member:
    """A host as the planner sees it; what a run would do there is found out on the way."""
    name, probe, found = run.host.name, run.probe, outcome.of(run.host.name)
    if found.maintenance or run.host not in run.host.state.activated_hosts:
        return Member(name, frozenset(), 0, "away", serves=False, target="")
    if probe is None:
        found.refusal = f"{run.trouble}; {run.fix}"
        return Member(name, frozenset(), 0, "other", serves=False, target="")
    gpus = hardware(probe).gpus
    held = lease.holder(probe) if not run.settings.steal else None
    if held:
        found.held = str(held)
    else:
        found.pending, found.refusal = rollout.preview(run)
    return Member(
        name,
        frozenset(gpu.name for gpu in gpus),
        sum(gpu.vram_mib for gpu in gpus),
        "other" if held else _stand(found, run),
        # Others fetch through a mirror: one that is yet to be made waits for no wave.
        serves=bool(probe.loaded or probe.state.get("verified")) and not is_mirror_to_come(run),
        target=_target(run.settings),
    )


def is_mirror_to_come(run: HostRun) -> bool:
    """Whether a host has still something to do before it is the mirror that it should be."""
    if not (run.mirror and run.probe):
        return False
    return next(mirror.install._inner(run.probe, run.mirror), None) is not None


def _stand(found: Outcome, run: HostRun) -> Literal["as wanted", "pending", "other"]:
    if not found.pending:
        return "other" if found.refusal else "as wanted"
    return "other" if _only_proof(found, run) else "pending"


def _only_proof(found: Outcome, run: HostRun) -> bool:
    """Whether nothing is to be done but to prove again what was proven with the same settings."""
    verified = run.probe.state.get("verified") if run.probe else None
    recorded = verified.get("settings") if isinstance(verified, dict) else None
    steps = [step for step in found.pending or () if not step.startswith(" ")]
    same = recorded is not None and recorded == found.settings
    return same and all(step.startswith("verify:") for step in steps)


def _target(settings: Settings) -> str:
    """Equal for hosts whose settings want the same."""
    wanted = {
        key: value
        for key, value in settings.model_dump().items()
        if key not in _NO_TARGET and not key.startswith("rollout_")
    }
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
