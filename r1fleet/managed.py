"""Files that r1fleet renders and keeps as they should be on a host."""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pyinfra.api import FunctionCommand

from r1fleet.remote import step
from r1fleet.shell import write_file


@dataclass(frozen=True)
class ManagedFile:
    """A file with the content it should have; `mode` is octal text, `owner` user:group."""

    path: str
    content: str
    mode: str = "644"
    owner: str = "root:root"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()

    def differs(self, found: dict[str, str]) -> bool:
        """Whether the host's file (path -> sha256, from the probe) is another one."""
        return found.get(self.path) != self.sha256


def write(stage: str, files: Sequence[ManagedFile]) -> Generator[FunctionCommand, None, None]:
    """Commands that put each file in place, whole, by one rename; one line of progress for all."""
    for number, file in enumerate(files):
        yield step(
            stage,
            f"writes {file.path}",
            write_file(file.path, file.content, mode=file.mode, owner=file.owner),
            "check the free space and rights there",
            stdin=file.content,
            change=file.path,
            quiet=number > 0,
        )
