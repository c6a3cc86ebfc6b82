"""Control groups of the lab: one tree per host, so that ending a tree ends all of a host."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.paths import NAME
from lab.shell import LabError

ROOT = Path("/sys/fs/cgroup")
PARENT = NAME.rstrip("-")


def hierarchies() -> list[Path]:
    """Where a host gets its tree: version 2 alone, or what systemd uses of a hybrid layout.

    Without a tree of its own in each of them a systemd in a host fails to end its services.
    """
    if (ROOT / "cgroup.procs").exists():
        return [ROOT]
    candidates = (ROOT / name for name in ("systemd", "unified", "pids"))
    return [path for path in candidates if (path / "cgroup.procs").exists()]


def names() -> list[str]:
    """Hosts that have a tree, running or not."""
    trees = [path for root in hierarchies() for path in (root / PARENT).glob("*/")]
    return sorted({path.name for path in trees})


def create(name: str) -> list[Path]:
    """Make the tree of a host and return its folder in each hierarchy."""
    folders = [root / PARENT / name for root in hierarchies()]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def members(name: str) -> set[int]:
    """Process ids of a host, its supervisor included. Empty: the host is down."""
    found: set[int] = set()
    for root in hierarchies():
        for folder in _tree(root / PARENT / name):
            # Groups come and go while the host lives; threaded ones cannot be read.
            with suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
    return found


def wait_empty(name: str, timeout_s: float) -> bool:
    """Wait until no process of a host is left; False when time is up."""
    deadline = time.monotonic() + timeout_s
    while members(name):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill(*names: str, timeout_s: float = 30) -> None:
    """End every process of hosts at once, as a power cut does, and remove their trees.

    Raises LabError when a process stays (stuck in the kernel).
    """
    deadline = time.monotonic() + timeout_s
    while pids := {name: found for name in names if (found := members(name))}:
        for pid in set[int]().union(*pids.values()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            left = ", ".join(pids)
            raise LabError(f"{left}: processes cannot be ended; try again, else reboot the machine")
        time.sleep(0.02)
    for name in names:
        remove(name)


def remove(name: str) -> None:
    """Remove the tree of a host that has no process left; also the common parent when empty."""
    for root in hierarchies():
        for folder in _tree(root / PARENT / name):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            (root / PARENT).rmdir()


def _tree(top: Path) -> Iterator[Path]:
    """The folder and all below it, deepest first."""
    for folder, _, _ in os.walk(top, topdown=False):
        yield Path(folder)
