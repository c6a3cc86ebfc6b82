"""A run on a real terminal: the display while hosts are at work, the usual end after it."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN, HIDDEN = "\x1b[?25h", "\x1b[?25l"  # the cursor

DEPLOY = """
import signal
import time

from pyinfra import host, state
from pyinfra.api import operation

from r1fleet import fleet, live, outcome, remote


@remote.host_task
def work(host, stage, title):
    remote.say(host, stage, title)
    time.sleep(SECONDS)
    outcome.of(host.name).done = True


@operation()
def converge():
    yield work("engine", "downloads the engine")


whole = state.inventory.get_host(host.name).state
if not live._Display.hosts:
    live.prepare(whole, tuple(member.name for member in whole.inventory))
    signal.signal(signal.SIGINT, fleet._interrupted)
converge(name="Converge")
"""


@contextmanager
def run(folder: Path, seconds: int) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """pyinfra on two hosts that work for so long, on a terminal: its process, and all that it
    has written so far, again and again."""
    (folder / "deploy.py").write_text(DEPLOY.replace("SECONDS", str(seconds)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pyinfra", "@fake/gpu1,@fake/gpu2", "deploy.py", "-y"],
        cwd=folder,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield process, written(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def written(terminal: int) -> Iterator[str]:
    told = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            return
        told += piece
        yield told.decode(errors="replace")


@pytest.fixture(autouse=True)
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYINFRA_PROGRESS", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_the_display_goes_before_the_results_come(tmp_path: Path) -> None:
    with run(tmp_path, 1) as (process, texts):
        *_, told = texts
        assert process.wait(60) == 0
    assert "2 hosts: 2 at work" in told
    assert told.count("downloads the engine\r\n") >= 2  # the log's lines, whole
    end = told.index("--> Results")
    assert "at work" not in told[end:]
    assert told.rindex(SHOWN) > told.rindex(HIDDEN)
    assert told.rindex(SHOWN) < end


def test_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    with run(tmp_path, 60) as (process, texts):
        for told in texts:
            if "2 hosts: 2 at work" in told:
                break
        process.send_signal(signal.SIGINT)
        *_, told = texts
        assert process.wait(60) == 130
    assert told.rindex(SHOWN) > told.rindex(HIDDEN)
    assert "at work" not in told[told.rindex(SHOWN) :]
    assert "goes on there" in told[told.rindex(SHOWN) :]
    assert "Traceback" not in told
