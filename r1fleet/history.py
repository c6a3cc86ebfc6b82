"""A host's memory: one line for each change, in its history and in its journal."""

import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import gevent
from pyinfra.api import FunctionCommand, Host, State

from r1fleet import lease, outcome, paths
from r1fleet.hostfacts import Probe
from r1fleet.origin import Origin, origin
from r1fleet.outcome import Outcome
from r1fleet.remote import HostFailure, changed, host_task, record_failure, run, say, warn
from r1fleet.shell import assign

if TYPE_CHECKING:  # the fleet ends histories when it is interrupted
    from r1fleet.fleet import HostRun

SCHEMA = 1
Verdict = Literal["changed", "failed", "rolled back"]
Stand = dict[str, str | None]

MOST_REASON = 500
INTERRUPTED = "interrupted"
INTERRUPTED_LIMIT_S = 5

# The whole file anew, by one rename: a power cut leaves the old lines or all of them.
_APPEND = """
if [ -n "$LINE" ]; then
  { [ ! -e "$HISTORY" ] || cat "$HISTORY"; printf '%s\\n' "$LINE"; } >"$HISTORY.new" &&
    sync "$HISTORY.new" && mv -f "$HISTORY.new" "$HISTORY" && sync "${HISTORY%/*}" ||
    echo "$HISTORY could not be written" >&2
  printf '%s\\n' "$LINE" | systemd-cat -t r1fleet || :
fi
"""


def stand(probe: Probe) -> Stand:
    """What a host serves, as the history tells it: from its probe and what it remembers."""
    verified = probe.state.get("verified")
    known = verified if isinstance(verified, dict) else {}
    return {
        "driver": probe.driver.loaded,
        "engine": probe.engine_current,
        "model": _text(known.get("model")),
        "digest": _text(known.get("digest")),
        "settings": _text(known.get("settings")),
    }


def entry(
    me: Origin,
    at: str,
    before: Stand,
    after: Stand,
    found: Outcome,
    verdict: Verdict,
    reason: str | None,
) -> dict[str, Any]:
    """One line of the history."""
    return {
        "schema": SCHEMA,
        "at": at,
        "run": me.run,
        "who": me.who,
        "commit": me.commit,
        "dirty": me.dirty,
        "from": before,
        "to": after,
        "changes": list(found.changes),
        "verdict": verdict,
        "reason": reason[:MOST_REASON] if reason else None,
        "tokens_per_s": found.smoke.tokens_per_s if found.smoke else None,
    }


def aim(found: Outcome, probe: Probe, model: str) -> Stand:
    """What a run makes of a host, as far as it has come to know it: after a way back what that
    one brought. `model` is the settings'."""
    choice = found.sizing.choice if found.sizing else None
    return {
        "driver": probe.driver.loaded,
        "engine": probe.engine_current,
        "model": found.serves or (f"{model}:{choice.tag}" if choice else None),
        "digest": found.smoke.digest if found.smoke else None,
        "settings": found.settings,
    }


class Watch:
    """The end of a host's converge: its line of history is written and its lease given back,
    also when a command fails, which ends the generator of an operation."""

    def __init__(self, member: "HostRun") -> None:
        self.member = member
        _watches[member.host.name] = self
        self.begin()

    def begin(self) -> None:
        """Note what the host serves, as it was looked at last."""
        probe = self.member.probe
        self.before = stand(probe) if probe else dict.fromkeys(_STAND)
        outcome.of(self.member.host.name).settings = None  # a plan's, made from files as they were

    def over(self, command: FunctionCommand) -> FunctionCommand:
        """The command; when it fails this is the end."""
        return FunctionCommand(self._guarded(command.function), command.args, command.kwargs)

    def _guarded(self, function: Callable[..., object]) -> Callable[..., bool]:
        @functools.wraps(function)
        def guarded(state: State, host: Host, *args: Any, **kwargs: Any) -> bool:
            ok = False
            lease.stand_still()
            try:
                if taken := lease.lost(host.name):
                    outcome.of(host.name).stage = "lease"
                    record_failure(host, f"{taken}; ask there, then run again", "held")
                else:
                    ok = function(state, host, *args, **kwargs) is not False
            finally:
                if not ok:
                    found = outcome.of(host.name)
                    # Others may wait for this host, and look here whether that is of use.
                    found.failure = found.failure or "see the run's output"
                    verdict: Verdict = "rolled back" if found.rolled_back else "failed"
                    self.end(verdict, found.failure)
            return ok

        return guarded

    def end(self, verdict: Verdict, reason: str | None = None, then: str = "") -> bool:
        """Write the history and give the lease back; only the first time. Never raises.

        + then: what else is to be done under the lease's lock. Returns whether it was.
        """
        host = self.member.host
        if not lease.drop(host.name):
            return False
        values = lease.variables() | {
            "LINE": self._line(verdict, reason),
            "HISTORY": paths.HISTORY_FILE,
        }
        try:
            script = assign(values) + lease.LOCKED + _APPEND + lease.GIVE_BACK + then
            done = run(host, script)
        except (HostFailure, AttributeError):  # the connection is gone: the lease runs out
            return False
        if done.stderr.strip():
            warn(host, f"history: {done.reason}")
        return done.ok

    def _line(self, verdict: Verdict, reason: str | None) -> str:
        """The line to append, "" when nothing has changed."""
        found, probe = outcome.of(self.member.host.name), self.member.probe
        if probe is None:
            after: Stand = dict.fromkeys(_STAND)
        else:
            after = aim(found, probe, self.member.settings.model)
        same = after["settings"] in (None, self.before["settings"])  # None: nothing was made of it
        if verdict == "changed" and not found.changes and same:
            return ""
        if found.stage == "lock" and not found.changes and reason != INTERRUPTED:
            return ""  # refused while nothing but digests was compared (model/pull.py)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps(entry(origin(), at, self.before, after, found, verdict, reason))


_STAND = ("driver", "engine", "model", "digest", "settings")
_watches: dict[str, Watch] = {}


@host_task
def close(host: Host) -> None:
    """Note the change and give the host back."""
    went_back = outcome.of(host.name).rolled_back  # as somebody wished
    _watches[host.name].end("rolled back" if went_back else "changed")


@host_task
def close_for_good(host: Host, stage: str, title: str, script: str, fix: str) -> None:
    """Note the change and give the host back, then run what takes the history itself away."""
    say(host, stage, title)
    changed(host, "r1fleet removed")
    if not _watches[host.name].end("changed", then=script):
        raise HostFailure(title, "not all of it could be removed", fix)


def interrupted() -> None:
    """End for all hosts that this run holds, as far as their connections live."""
    lease.close(INTERRUPTED_LIMIT_S)
    ends = [gevent.spawn(_watches[name].end, "failed", INTERRUPTED) for name in lease.mine()]
    gevent.joinall(ends, timeout=INTERRUPTED_LIMIT_S)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
