"""Asking a command of the user's own for a secret: pass, sops, vault, whatever prints it."""

import subprocess
from functools import cache

LIMIT_S = 60


class CommandError(ValueError):
    """It gave none; the message holds neither the command nor what it printed."""


@cache
def said(command: str) -> str:
    """What a command prints; it is asked once in a run, it may want a finger on a key.

    Raises CommandError.
    """
    try:
        done = subprocess.run(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise CommandError(type(error).__name__) from None
    if done.returncode:
        raise CommandError(f"it ended with {done.returncode}")
    return done.stdout
