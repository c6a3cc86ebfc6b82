"""One build at a time, also across checkouts that share a cache."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, what: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file; who has to wait for another build of `what` says so."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another build of {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
