"""Long work as a transient unit of the host: it outlives the laptop, and a new run re-attaches."""

import time

from pyinfra.api import Host

from r1fleet.remote import HostFailure, changed, host_task, run, say, tell
from r1fleet.shell import assign, receive

RUN_DIR = "/run/r1fleet"

# An earlier run's unit may still be at work: then its end is waited for first, and ours follows,
# because its script may have been made from other settings.
_BUSY = """
if systemctl is-active -q "$UNIT.service"; then echo busy; exit 0; fi
install -d -m 755 "$DIR"
"""

_START = """
set -e
mv -f "$DIR/$UNIT.sh.new" "$DIR/$UNIT.sh"
rm -f "$DIR/$UNIT.out" "$DIR/$UNIT.rc"
: >"$DIR/$UNIT.out"  # nobody else's to read, by the umask from above
systemd-run -q --collect --unit="$UNIT" /bin/sh -c \
  "sh $DIR/$UNIT.sh >$DIR/$UNIT.out 2>&1 </dev/null; echo \\$? >$DIR/$UNIT.rc; rm $DIR/$UNIT.sh"
echo started
"""

# One remote command waits up to five seconds, so that the end is seen soon with few commands.
_FOLLOW = """
i=0
while [ $i -lt 20 ] && systemctl is-active -q "$UNIT.service"; do sleep 0.25; i=$((i + 1)); done
if systemctl is-active -q "$UNIT.service"; then echo running; else
  cat "$DIR/$UNIT.rc" || echo gone
fi
tail -n 4 "$DIR/$UNIT.out" 2>/dev/null || :
"""


@host_task
def long_step(
    host: Host,
    stage: str,
    title: str,
    unit: str,
    script: str,
    fix: str,
    *,
    change: str | None = None,
    timeout_s: int = 3600,
    shows: tuple[str, ...] = (),
) -> None:
    """Run `script` as the transient unit `unit` and follow it to its end.

    `timeout_s` only ends the watching: the unit goes on, and the next run finds it. Its last
    line of output is the reason of a failure.
    """
    say(host, stage, title)
    names = assign({"UNIT": unit, "DIR": RUN_DIR})
    deadline = time.monotonic() + timeout_s
    begin = names + _BUSY + receive(f"{RUN_DIR}/{unit}.sh", script) + _START
    while (answer := run(host, begin, stdin=script)).stdout.strip() == "busy":
        say(host, stage, f"waits for {unit}, which an earlier run started")
        _follow(host, stage, title, names, deadline)
    if not answer.ok:
        raise HostFailure(title, answer.reason, fix)
    code, reason = _follow(host, stage, title, names, deadline)
    if code != "0":
        raise HostFailure(title, reason or "it was ended from outside", fix)
    if change:
        changed(host, change)


def _follow(host: Host, stage: str, title: str, names: str, deadline: float) -> tuple[str, str]:
    """Wait for the unit's end: its exit code ("gone" when nothing is known) and last line."""
    while time.monotonic() < deadline:
        state, _, tail = run(host, names + _FOLLOW).stdout.partition("\n")
        last = tail.strip().rsplit("\n", 1)[-1]
        if state.strip() != "running":
            return state.strip(), last
        tell(host, stage, f"{title}, still at it{': ' if last else ''}{last[:100]}")
    raise HostFailure(title, "it is still going on, on the host", "run again to follow it")
