"""Waiting for requests in flight before a step that would cut them off.

Ollama drops them when it is told to stop. A gateway before it refuses new ones meanwhile, and until
the host is proven again. Without one a host under steady load is never idle: then the limit
decides, and the line says so.
"""

from collections.abc import Generator
from functools import cache
from importlib import resources
from typing import Literal

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import paths
from r1fleet.gateway.pool import HEALTH_INTERVAL_S
from r1fleet.gateway.wanted import UNIT
from r1fleet.hostfacts import Probe
from r1fleet.remote import host_task, run, say, step, warn
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]
SPARE_S = 60

# First the health checks fail; requests are refused only when those who ask them must have seen it.
LAME_S = 2 * HEALTH_INTERVAL_S + 1
_HOLD_BACK = f"""
set -e
if [ -e {paths.REFUSING} ]; then
  [ "$WHOSE" = gateway ] || echo "$WHOSE" >{paths.REFUSING}
  exit 0
fi
install -d -m 755 {paths.STATE_DIR} {paths.DRAINING.rpartition("/")[0]}
umask 022
touch {paths.DRAIN_FLAG} {paths.DRAINING}
sleep {LAME_S}
echo "$WHOSE" >{paths.REFUSING}
"""


@operation()
def drain(probe: Probe, limit_s: int, whose: Literal["engine", "gateway"] = "engine") -> Commands:
    """Let a gateway refuse new requests, and wait until the running ones are finished.

    The gateway takes requests again when the host is proven (gateway/stage.py).

    + probe: the host as it is; nothing is asked where no model is loaded
    + limit_s: at most so long; 0 does not wait
    + whose: restart it is for; requests that were held back for a gateway's own alone are taken
      again at once when that is put back
    """
    is_own = not probe.gateway.knows  # a fleet gateway stands before other hosts' engines
    if probe.unit(UNIT).active == "active" and is_own:
        yield step(
            "gateway",
            "holds new requests back",
            assign({"WHOSE": whose}) + _HOLD_BACK,
            f"check the rights of {paths.STATE_DIR}",
            # So that the host is looked at again, and takes requests in the end.
            change="requests held back",
        )
    if limit_s and probe.loaded:
        yield wait("engine", "waits for running requests", limit_s)


@host_task
def wait(
    host: Host,
    stage: str,
    title: str,
    limit_s: int,
    *,
    root: str | None = None,
    pid: int = 0,
    port: int = 0,
) -> None:
    """Ask llama-server which of its slots are at work until none is, or the time is up.

    + root: the folder that it runs from; None: of r1fleet's engine
    + pid, port: of an engine that may be too old to have one; then its connections tell
    """
    values = {"R1_ROOT": paths.ENGINE_ROOT if root is None else root, "R1_LIMIT_S": str(limit_s)}
    if pid:  # it is not r1fleet's: what becomes of it is told first
        say(host, stage, title)
    values |= {"R1_PID": str(pid), "R1_PORT": f"{port:04X}"}
    answer = run(host, assign(values) + _script(), timeout_s=limit_s + SPARE_S)
    word, _, number = answer.stdout.strip().partition(" ")
    if word == "busy":
        warn(host, f"{number} requests were still running after {limit_s} s: they were cut off")
    elif word == "idle" and number not in ("0", "1"):
        say(host, stage, f"waited {number} s for running requests")
    elif word != "idle":
        warn(host, f"whether requests are running could not be asked: {answer.reason}")


@cache
def _script() -> str:
    text = (resources.files("r1fleet") / "drain.sh").read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
