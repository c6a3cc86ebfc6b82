"""The password with which sudo elevates our commands; read once in a run, kept in memory alone."""

import os
import signal
from collections.abc import Iterable
from functools import cache
from getpass import getpass
from pathlib import Path

from r1fleet import secret_source

ASK = "ask"
TERMINAL = Path("/dev/tty")
EXIT_INTERRUPTED = 130


class SudoPasswordError(ValueError):
    """There is no password where the setting says; the message never holds any of it."""


def is_source(source: str) -> bool:
    """Whether a text says where the password is: env:NAME, file:PATH, command:WORDS or `ask`."""
    return source == ASK or secret_source.is_source(source)


@cache
def read(source: str) -> str:
    """The password of a setting; asked for once, for all hosts that have it so.

    Raises SudoPasswordError.
    """
    try:
        text = _asked() if source == ASK else secret_source.text(source)
        password = text.removesuffix("\n").removesuffix("\r")
        if not password or "\n" in password or "\0" in password:
            raise secret_source.SourceError("gives no password; it is one line")
    except secret_source.SourceError as error:
        raise SudoPasswordError(f"sudo_password: {secret_source.shown(source)}: {error}") from None
    return password


def read_all(sources: Iterable[str]) -> None:
    """Read these now, in the open, before any host is asked anything. Raises SudoPasswordError."""
    for source in sorted(set(sources)):
        read(source)


def _asked() -> str:
    try:
        TERMINAL.open().close()
    except OSError:
        raise secret_source.SourceError(
            "there is no terminal to ask at; use env:NAME, file:PATH or command:WORDS"
        ) from None
    # A handler that ends the process at once would leave the terminal without its echo.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return getpass("sudo password of the hosts (sudo_password is ask): ")
    except (EOFError, OSError):
        raise secret_source.SourceError("the terminal gave none") from None
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, ctrl_c)
