"""A command on a terminal of its own, where somebody types a password when asked."""

import os
import pty
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROMPT = "sudo password of the hosts"


@dataclass(frozen=True)
class Typed:
    """Exit code, all that stood on the terminal, and how often the password was asked for."""

    code: int
    output: str
    asked: int


def run(
    words: list[str | Path],
    cwd: Path,
    environment: Mapping[str, str],
    password: str,
    limit_s: float = 600,
) -> Typed:
    """Run a command to its end; the password is typed at each prompt for it."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.execve(words[0], [str(word) for word in words], dict(environment))
    said, asked, deadline = b"", 0, time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            said += os.read(terminal, 65536)
        except OSError:  # it has ended
            break
        if said.count(PROMPT.encode()) > asked:
            asked += 1
            time.sleep(0.2)  # the echo is off by then
            os.write(terminal, f"{password}\n".encode())
    else:  # the time is up
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    output = said.decode(errors="replace").replace("\r\n", "\n")
    return Typed(os.waitstatus_to_exitcode(status), output, asked)
