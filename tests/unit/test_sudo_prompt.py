"""The prompt for sudo's password, on a terminal."""

import os
import pty
import select
import sys
import termios
import time
from pathlib import Path

import pytest

PROMPT = b"sudo password of the hosts"
INVENTORY = 'hosts = [("@local", {"_sudo": True, "sudo_password": "ask"})]\n'


def read(terminal: int, until: bytes = b"\0") -> bytes:
    """What stands on the terminal, up to `until` or the end of the process."""
    said, deadline = b"", time.monotonic() + 60
    while until not in said and time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            said += os.read(terminal, 65536)
        except OSError:  # it has ended
            break
    return said


def has_echo(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


@pytest.mark.parametrize("program", ["r1fleet", "pyinfra"])
def test_it_shows_nothing_and_ctrl_c_leaves_a_terminal_that_echoes(
    tmp_path: Path, program: str
) -> None:
    (tmp_path / "inventory.py").write_text(INVENTORY)
    (tmp_path / "deploy.py").write_text("from r1fleet import job\njob.main()\n")
    (tmp_path / "config.py").write_text("from r1fleet import before\n")
    modules = {"r1fleet": ["r1fleet.cli", "status"], "pyinfra": ["pyinfra"]}
    argv = [sys.executable, "-m", *modules[program], "inventory.py"]
    argv += ["deploy.py", "-y"] if program == "pyinfra" else []
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execv(argv[0], argv)
    assert PROMPT in read(terminal, PROMPT)
    deadline = time.monotonic() + 30
    while has_echo(terminal) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not has_echo(terminal)
    os.write(terminal, b"half of it\x03")
    deadline = time.monotonic() + 30
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 130
    assert has_echo(terminal)
    assert b"half" not in read(terminal)
    os.close(terminal)
