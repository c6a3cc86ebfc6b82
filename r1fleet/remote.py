"""Running scripts on a host from inside an operation: one line per step, one line per failure.

pyinfra ends the whole run on an exception in an operation and prints a traceback for a raising
FunctionCommand; so everything that can fail here fails by returning False after one line that
says what, why and what to do.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import FunctionCommand, Host, State

from r1fleet import elevate, live, outcome
from r1fleet.moving import Moving
from r1fleet.words import plain

P = ParamSpec("P")
TELL_EVERY_S = 10.0


class HostFailure(Exception):
    """One host cannot go on. Raise it inside a `host_task`, nowhere else."""

    kind: outcome.Failed = "failed"

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what}: {why}; {fix}" if fix else f"{what}: {why}")


class Lost(HostFailure):
    """The connection to a host is gone."""

    kind = "lost"


class Held(HostFailure):
    """Another operator holds the host."""

    kind = "held"


@dataclass(frozen=True)
class Result:
    """What a remote script gave back."""

    ok: bool
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line it wrote to stderr (else stdout): by our scripts' habit, the reason."""
        for text in (self.stderr, self.stdout):
            if lines := [line.strip() for line in text.splitlines() if line.strip()]:
                return lines[-1]
        return "it ended with an error and said nothing"


def run(host: Host, script: str, *, stdin: str | None = None, timeout_s: int = 120) -> Result:
    """Run a POSIX shell script as root, by the operation's own elevation (r1fleet/elevate.py).

    Raises HostFailure when the connection is lost, the time is up or sudo refuses.
    """
    try:
        said = elevate.run(host, script, stdin=stdin, timeout_s=timeout_s)
    except elevate.NotBegun as error:
        raise HostFailure("no command was run", error.why, error.fix) from error
    except TimeoutError as error:
        raise HostFailure(
            "a remote command", str(error), "look at the host, then run again"
        ) from error
    except (OSError, EOFError, SSHException) as error:
        raise Lost(
            "connection lost", str(error) or type(error).__name__, "run again when it is back"
        ) from error
    return Result(said.ok, said.stdout, said.stderr)


def say(host: Host, stage: str, text: str) -> None:
    """One line of a host: what it does from now on."""
    text = plain(text)
    outcome.of(host.name).at(stage, text)
    live.begin()
    _line(host, stage, text)


def tell(host: Host, stage: str, text: str, moving: Moving | None = None) -> None:
    """How far it is with that: in the live display, else by a line every ten seconds."""
    found, now_s, text = outcome.of(host.name), time.monotonic(), plain(text)
    found.stage, found.doing, found.moving = stage, text, moving
    if not live.is_on() and now_s - found.told_s >= TELL_EVERY_S:
        found.told_s = now_s
        _line(host, stage, text)


def _line(host: Host, stage: str, text: str) -> None:
    logger.info(f"{host.print_prefix}{stage:<7} {text}")


def warn(host: Host, text: str) -> None:
    """A warning: shown now, once, and again in the report."""
    text = plain(text)
    if text in outcome.of(host.name).warnings:
        return
    outcome.of(host.name).warnings.append(text)
    logger.warning(f"{host.print_prefix}warning: {text}")


def changed(host: Host, text: str) -> None:
    """Note a change for the report."""
    outcome.of(host.name).changes.append(text)


def host_task(
    function: Callable[Concatenate[Host, P], None],
) -> Callable[P, FunctionCommand]:
    """Turn `function(host, ...)` into a command of an operation.

    A HostFailure raised in it becomes one logged line and this host's failure, no traceback.
    """

    @functools.wraps(function)
    def guarded(state: State, host: Host, *args: P.args, **kwargs: P.kwargs) -> bool:
        try:
            function(host, *args, **kwargs)
        except HostFailure as failure:
            record_failure(host, str(failure), failure.kind)
            return False
        return True

    def command(*args: P.args, **kwargs: P.kwargs) -> FunctionCommand:
        return FunctionCommand(guarded, args, kwargs)

    return command


def record_failure(host: Host, line: str, kind: outcome.Failed = "failed") -> None:
    """Log a host's failure once and keep it for the report."""
    found = outcome.of(host.name)
    found.failed_as = kind
    line = plain(line)
    if found.stage:
        line = f"{found.stage}: {line}"
    found.failure = line
    logger.error(f"{host.print_prefix}{line}")


@host_task
def fail(host: Host, what: str, why: str, fix: str, *, shows: tuple[str, ...] = ()) -> None:
    """A command that fails the host: for refusals that planning found.

    `shows`: commands that a person would run, for the plan of a dry run.
    """
    raise HostFailure(what, why, fix)


@host_task
def step(
    host: Host,
    stage: str,
    title: str,
    script: str,
    fix: str,
    *,
    stdin: str | None = None,
    change: str | None = None,
    timeout_s: int = 600,
    quiet: bool = False,
) -> None:
    """Run a script as one step of a stage. `change` is what the report calls it; a `quiet` step
    is told only when it fails."""
    if not quiet:
        say(host, stage, title)
    result = run(host, script, stdin=stdin, timeout_s=timeout_s)
    if not result.ok:
        raise HostFailure(title, result.reason, fix)
    if change:
        changed(host, change)


def title(command: FunctionCommand) -> str:
    """What a command would do, for a dry run: its stage and title, or its task's own words."""
    words = [arg for arg in command.args if isinstance(arg, str)][:2]
    return ": ".join(words) if words else (command.function.__doc__ or "").split(".")[0]


def refusal_text(command: FunctionCommand) -> str:
    """What a refusal would say: what, why, and what to do."""
    return str(HostFailure(*command.args))


def shows(command: FunctionCommand) -> tuple[str, ...]:
    """The very commands that a step would run on the host, where it tells them."""
    found: tuple[str, ...] = command.kwargs.get("shows", ())
    return found


def told(error: Exception) -> str:
    """An exception of planning in one line; a ValueError's text was made for people."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def is_refusal(command: FunctionCommand) -> bool:
    """Whether a command does nothing but fail its host."""
    return command.function.__name__ == "fail"
