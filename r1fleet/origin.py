"""Whose run this is, and from which commit of which tree: what leases and histories name."""

import getpass
import os
import secrets
import socket
import subprocess
import threading
from dataclasses import dataclass
from functools import cache

from r1fleet.driver.reboot import own_boot_id

GIT_LIMIT_S = 10
_lock = threading.Lock()  # git is waited for, and meanwhile other hosts ask


@dataclass(frozen=True)
class Origin:
    """A run: `run` is its id, `commit` that of the tree it was started in, None without git."""

    run: str
    who: str
    commit: str | None
    dirty: bool
    pid: int
    boot_id: str


def origin() -> Origin:
    """Of this process; found out once, however many hosts ask for it at the same time."""
    with _lock:
        return _origin()


@cache
def _origin() -> Origin:
    commit = _git("rev-parse", "--short=12", "HEAD")
    return Origin(
        run=secrets.token_hex(4),
        who=f"{_user()}@{socket.gethostname() or 'unknown'}",
        commit=commit.strip()[:12] if commit else None,
        dirty=bool(commit and _git("status", "--porcelain")),
        pid=os.getpid(),
        boot_id=own_boot_id(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return str(os.getuid())


def _git(*words: str) -> str | None:
    """What git says of the working directory; None where it or the repository is missing."""
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=GIT_LIMIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
