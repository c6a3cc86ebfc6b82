"""Steps whose failure is handed over instead of ending the host at once.

pyinfra closes a host's generator at its first failing command; a way back needs more commands. Over
a connection that is gone there is none: the host ends as lost, and the next run mends it.
"""

from collections.abc import Callable, Generator
from typing import Any

from pyinfra.api import FunctionCommand, Host, State

from r1fleet import outcome
from r1fleet.fleet import HostRun
from r1fleet.remote import record_failure, told

Commands = Generator[FunctionCommand, None, None]


def guarded(run: HostRun, commands: Commands) -> Generator[FunctionCommand, None, str | None]:
    """The commands up to the first that fails; returns its one line, None when all passed."""
    if run.rehearsing:
        yield from commands
        return None
    found = outcome.of(run.host.name)
    try:
        for command in commands:
            yield FunctionCommand(_caught(command.function), command.args, command.kwargs)
            if found.caught is not None:
                reason, found.caught = found.caught, None
                commands.close()
                return reason
    except Exception as error:  # of planning
        return f"plan: {told(error)}"
    return None


def end(line: str) -> FunctionCommand:
    """A command that fails the host with a line that is whole already."""
    return FunctionCommand(_end, (line,), {})


def optional(command: FunctionCommand) -> FunctionCommand:
    """The command, except that its failure is only a warning."""
    caught = _caught(command.function)

    def attempt(state: State, host: Host, *args: Any, **kwargs: Any) -> bool:
        went_on = caught(state, host, *args, **kwargs)
        found = outcome.of(host.name)
        if found.caught is not None:
            found.warnings.append(found.caught)
            found.caught = None
        return went_on

    return FunctionCommand(attempt, command.args, command.kwargs)


def _caught(function: Callable[..., Any]) -> Callable[..., bool]:
    # pyinfra looks for the names of these two.
    def attempt(state: State, host: Host, *args: Any, **kwargs: Any) -> bool:
        try:
            ok = function(state, host, *args, **kwargs)
        except Exception as error:  # a host must have its way back whatever happened
            record_failure(host, told(error))
            ok = False
        if ok is False:
            found = outcome.of(host.name)
            if found.failed_as == "lost":
                return False
            found.caught, found.failure = found.failure or "a step failed", None
        return True

    return attempt


def _end(state: State, host: Host, line: str) -> bool:
    outcome.of(host.name).stage = ""
    record_failure(host, line)
    return False
