"""Where a secret comes from, on the machine one works on: env:NAME, file:PATH or command:WORDS."""

import os
import stat
from pathlib import Path

from r1fleet import secret_command

KINDS = ("env", "file", "command")


class SourceError(ValueError):
    """There is no secret where one was named; the message never holds any of it."""


class NoFileError(SourceError):
    """The file is not there."""


def is_source(source: str) -> bool:
    """Whether a text says where a secret is."""
    kind, _, rest = source.partition(":")
    return kind in KINDS and bool(rest.strip())


def shown(source: str) -> str:
    """A source as it may be printed: a command may have a password in it."""
    kind = source.partition(":")[0]
    return kind if kind == "command" else source


def text(source: str) -> str:
    """What a source holds. Raises SourceError."""
    kind, _, rest = source.partition(":")
    return {"env": _variable, "file": read_file, "command": _said}[kind](rest.strip())


def read_file(name: str) -> str:
    """The text of a file that nobody else can read. Raises SourceError."""
    path = Path(name).expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SourceError(f"others can read it (mode {mode:o}); chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        raise NoFileError("it is not there") from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise SourceError(f"it cannot be read: {why}") from None


def _variable(name: str) -> str:
    if name not in os.environ:
        raise SourceError("there is no such variable")
    return os.environ[name]


def _said(command: str) -> str:
    try:
        return secret_command.said(command)
    except secret_command.CommandError as error:
        raise SourceError(str(error)) from None
