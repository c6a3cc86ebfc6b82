"""Waiting for requests in flight before a step that would cut them off.

Ollama drops them when it is told to stop. Nothing before it refuses new requests, so a host under
steady load is never idle: then the limit decides, and the line says so.
"""

from collections.abc import Generator
from functools import cache
from importlib import resources

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import paths
from r1fleet.hostfacts import Probe
from r1fleet.remote import host_task, run, say, warn
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]
SPARE_S = 60


@operation()
def drain(probe: Probe, limit_s: int) -> Commands:
    """Wait until running requests are finished.

    + probe: the host as it is; nothing is asked where no model is loaded
    + limit_s: at most so long; 0 does not wait
    """
    if limit_s and probe.loaded:
        yield wait("engine", "waits for running requests", limit_s)


@host_task
def wait(host: Host, stage: str, title: str, limit_s: int) -> None:
    """Ask llama-server which of its slots are at work until none is, or the time is up."""
    values = {"R1_ROOT": paths.ENGINE_ROOT, "R1_LIMIT_S": str(limit_s)}
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
