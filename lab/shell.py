"""Errors of the lab, and the one way it runs programs of the machine."""

import shlex
import subprocess
from collections.abc import Mapping


class LabError(Exception):
    """Something failed. The message is for people: what, why and what to do, one line each."""

    exit_code = 1


class Refusal(LabError):
    """The lab cannot run here as asked; nothing was touched."""

    exit_code = 2


def run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = 60) -> str:
    """Run a program to its end and return what it printed.

    Raises LabError with the command and the last line of its error output.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(command)}: no end after {timeout_s:.0f} s") from error
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise LabError(f"{shlex.join(command)}: exit {done.returncode}: {reason}")
    return done.stdout
