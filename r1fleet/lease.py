"""One operator at a time: a run holds a host from its first change there to its end.

The lease is a file on the host, taken and given back under a lock there. It runs out by itself,
so a laptop that dies blocks nobody for long; while the run works it is renewed.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import gevent
from pyinfra.api import Host

from r1fleet import paths
from r1fleet.hostfacts import Probe, json_object
from r1fleet.origin import Origin, origin
from r1fleet.remote import Held, HostFailure, host_task, run, warn
from r1fleet.shell import assign

SCHEMA = 1
LASTS_S = 1800  # longer than a server takes to reboot, when nothing can be renewed
RENEW_EVERY_S = 120
LOCK_DIR = "/run/r1fleet"
TRIES = 3
TAKEN = "taken:"

# All that touches the file. Its clock is the host's: those of two laptops may differ.
LOCKED = """
umask 022
LC_ALL=C; export LC_ALL
[ -d "$LOCK_DIR" ] || install -d -m 755 "$LOCK_DIR" || exit 1
exec 9>>"$LOCK_DIR/lease.lock" && chmod 600 "$LOCK_DIR/lease.lock" || exit 1
flock -w 20 9 || { echo "the lock of the lease is stuck" >&2
  exit 1; }
held=
[ ! -e "$FILE" ] || read -r held <"$FILE" || :
mine() { case $held in *"\\"run\\": \\"$RUN\\""*) return 0 ;; esac; return 1; }
stamp() { date -u -d "+$1 seconds" +%Y-%m-%dT%H:%M:%S+00:00; }
put() {
  printf '%s, "since": "%s", "until": "%s"}\\n' "$HEAD" "$1" "$(stamp "$LASTS_S")" >"$FILE.new" &&
    sync "$FILE.new" && mv -f "$FILE.new" "$FILE"
}
"""

# Taken if nobody has it, or it is still the one that was judged to be free.
_TAKE = """
[ -d "${FILE%/*}" ] || install -d -m 755 "${FILE%/*}" || exit 1
if [ -n "$held" ] && [ "$held" != "$SEEN" ]; then printf '%s\\n' "$held"; stamp 0; exit 0; fi
since=$(stamp 0)
put "$since" && printf 'taken: %s\\n' "$since"
"""

_RENEW = """
mine || { printf '%s\\n' "$held"; exit 0; }
put "$SINCE" && echo renewed
"""

GIVE_BACK = """
! mine || rm -f "$FILE"
"""


@dataclass(frozen=True)
class Lease:
    """What lease.json says. `pid` and `boot_id` are of the machine that `who` works on."""

    run: str
    who: str
    since: str
    until: str
    pid: int
    boot_id: str

    def __str__(self) -> str:
        return f"held by {self.who} since {self.since}, until {self.until}"


def read(text: str) -> Lease | None:
    """The lease that a line holds; what is damaged holds none."""
    found = json_object(text)
    words = {key: found.get(key) for key in ("run", "who", "since", "until")}
    if not all(isinstance(word, str) and word.isprintable() for word in words.values()):
        return None
    pid = found.get("pid")
    return Lease(
        **{key: str(word) for key, word in words.items()},
        pid=pid if isinstance(pid, int) else 0,
        boot_id=str(found.get("boot_id", "")),
    )


def schema(probe: Probe) -> Any:
    """The schema of the host's lease; None without one."""
    return json_object(probe.lease[0]).get("schema") if probe.lease else None


def blocks(lease: Lease | None, clock: str, me: Origin) -> bool:
    """Whether a lease keeps this run out, by the host's clock.

    One that has run out does not, nor one of a process of this machine that is gone.
    """
    if lease is None or lease.run == me.run or lease.until <= clock:
        return False
    return not _is_left(lease, me)


def holder(probe: Probe) -> Lease | None:
    """Who else holds the host, by its probe."""
    if len(probe.lease) < 2:
        return None
    lease = read(probe.lease[0])
    return lease if blocks(lease, probe.lease[1], origin()) else None


def is_left(probe: Probe) -> bool:
    """Whether the host's lease is of a run of this machine that is gone."""
    lease = read(probe.lease[0]) if probe.lease else None
    return lease is not None and _is_left(lease, origin())


def refusal(lease: Lease) -> tuple[str, str, str]:
    """Why a host that is held is left alone, as a failure's (what, why, what to do)."""
    return "lease", str(lease), "let that run end, or take the host over: --data steal=yes"


@dataclass
class _Mine:
    """A lease of this run: since when, what it was lost to, and what renews it."""

    since: str
    lost: str | None = None
    keeper: Any = None


_mine: dict[str, _Mine] = {}
_taking: set[str] = set()  # hosts whose answer is under way


class _Run:
    is_over = False  # it was interrupted, and the process is about to end


def close(limit_s: float) -> None:
    """From now on no host is taken and nothing more is begun on one. What is being taken is waited
    for, so that it can be given back."""
    _Run.is_over = True
    end = time.monotonic() + limit_s
    while _taking and time.monotonic() < end:
        gevent.sleep(0.05)


def stand_still() -> None:
    """Go no further once the run is over: hosts are given back then."""
    while _Run.is_over:
        gevent.sleep(1)


@host_task
def take(host: Host, stage: str, title: str, probe: Probe, steal: bool) -> None:
    """Take the lease, or fail the host and name the holder. What was seen may be old: the file
    itself decides."""
    seen = probe.lease[0] if probe.lease else ""
    clock = probe.lease[1] if len(probe.lease) > 1 else ""
    me = origin()
    for _ in range(TRIES):
        stand_still()
        lease = read(seen)
        other = lease if blocks(lease, clock, me) else None
        if other and not steal:
            raise Held(*refusal(other))
        _taking.add(host.name)
        try:
            done = run(host, assign(_variables(me) | {"SEEN": seen}) + LOCKED + _TAKE)
        finally:
            _taking.discard(host.name)
        if not done.ok:
            raise HostFailure(title, done.reason, f"check the free space of {paths.STATE_DIR}")
        if done.stdout.startswith(TAKEN):
            mine = _Mine(done.stdout.removeprefix(TAKEN).strip())
            mine.keeper = gevent.spawn(_keep, host, mine)
            _mine[host.name] = mine
            if other:
                warn(host, f"taken over: it was {other}")
            return
        seen, _, clock = done.stdout.strip().rpartition("\n")
    raise HostFailure(title, "it changes hands again and again", "run again")


@host_task
def leave_alone(host: Host, lease: Lease) -> None:
    """Fail a host because another operator holds it."""
    raise Held(*refusal(lease))


def lost(host: str) -> str | None:
    """What this run's lease of a host was lost to, in words."""
    mine = _mine.get(host)
    return mine.lost if mine else None


def drop(host: str) -> bool:
    """Let go of this side of a lease; whether there was one. The host's side: GIVE_BACK."""
    mine = _mine.pop(host, None)
    if mine and mine.keeper:
        mine.keeper.kill(block=False)
    return mine is not None


def mine() -> list[str]:
    """The hosts that this run holds now."""
    return list(_mine)


def variables() -> dict[str, str]:
    """What the scripts over LOCKED read."""
    return _variables(origin())


def _keep(host: Host, mine: _Mine) -> None:
    """Renew a lease until it is dropped. Another's is not taken back: the run ends there."""
    script = assign(_variables(origin()) | {"SINCE": mine.since}) + LOCKED + _RENEW
    while not mine.lost:
        gevent.sleep(RENEW_EVERY_S)
        try:
            done = run(host, script, timeout_s=60)
        except (HostFailure, AttributeError):  # away for a reboot: paramiko has no transport then
            continue
        if done.ok and done.stdout.strip() != "renewed":
            other = read(done.stdout.strip())
            mine.lost = f"it is now {other}" if other else "somebody removed the lease"


def _variables(me: Origin) -> dict[str, str]:
    head = {"schema": SCHEMA, "run": me.run, "who": me.who, "pid": me.pid, "boot_id": me.boot_id}
    return {
        "FILE": paths.LEASE_FILE,
        "LOCK_DIR": LOCK_DIR,
        "LASTS_S": str(LASTS_S),
        "RUN": me.run,
        "HEAD": json.dumps(head)[:-1],
    }


def _is_left(lease: Lease, me: Origin) -> bool:
    here = bool(me.boot_id) and (lease.who, lease.boot_id) == (me.who, me.boot_id)
    return here and bool(lease.pid) and _is_gone(lease.pid)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
