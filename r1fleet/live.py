"""The live display of a run on a terminal: one picture of all hosts, the log's lines above it.

It begins with the first step of a host and ends with the operation, so a run that changes nothing
shows none. Where there is no terminal, or with --json, there are the log's lines alone.
"""

import io
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, cast

import gevent
from pyinfra.api.state import BaseStateCallback, State

from r1fleet import outcome
from r1fleet.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from r1fleet.progress import HostLine

REDRAWN_EVERY_S = 0.5


class _Above(io.TextIOBase):
    """Takes what is written to a stream and puts it, line by line and whole, above the display."""

    def __init__(self, console: "Console", stream: TextIO) -> None:
        self.console, self.stream, self.rest = console, stream, ""

    def write(self, text: str) -> int:
        from rich.text import Text  # noqa: PLC0415

        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            # Not wrapped: lines are copied and searched for.
            self.console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def end(self) -> None:
        """Write what has not come to its end of line."""
        if self.rest:
            self.stream.write(self.rest)
        self.rest = ""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


@dataclass
class _Shown:
    """The display while it is up."""

    live: "Live"
    drawer: "gevent.Greenlet[[Live], None]"
    stdout: TextIO
    stderr: TextIO


class _Display:
    """Of this run. `hosts` is empty where there is to be none."""

    hosts: tuple[str, ...] = ()
    began_s: float = 0.0
    shown: _Shown | None = None


class _Callback(BaseStateCallback):
    """What pyinfra prints between operations is not ours to be drawn over."""

    @staticmethod
    def operation_end(state: State, op_hash: str) -> None:
        end()


def prepare(state: State, hosts: tuple[str, ...]) -> None:
    """Decide whether this run has a display, and keep pyinfra's spinner out of it."""
    if not is_wanted():
        return
    _Display.hosts = hosts
    os.environ["PYINFRA_PROGRESS"] = "off"
    state.add_callback_handler(_Callback())  # type: ignore[no-untyped-call]


def is_wanted() -> bool:
    """Whether there is a terminal to draw on, and nobody said no."""
    is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    is_plain = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    is_off = os.environ.get("PYINFRA_PROGRESS") == "off" or "--json" in sys.argv
    return is_terminal and not is_plain and not is_off


def is_on() -> bool:
    """Whether there is a display, so that progress needs no lines."""
    return _Display.shown is not None


def begin() -> None:
    """Put the display up, if this run has one and it is not up."""
    if not _Display.hosts or _Display.shown:
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    _Display.began_s = _Display.began_s or time.monotonic()
    console = Console(file=sys.stderr)
    live = Live(
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    live.start()
    _Display.shown = _Shown(live, gevent.spawn(_draw, live), sys.stdout, sys.stderr)
    sys.stdout = cast(TextIO, _Above(console, sys.stdout))
    sys.stderr = cast(TextIO, _Above(console, sys.stderr))


def end() -> None:
    """Take the display away; what follows is printed where it was. Also from a signal handler."""
    shown, _Display.shown = _Display.shown, None
    if shown is None:
        return
    shown.drawer.kill(block=False)
    above = (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = shown.stdout, shown.stderr
    shown.live.stop()
    for stream in above:
        if isinstance(stream, _Above):
            stream.end()


def _draw(live: "Live") -> None:
    from r1fleet.progress import picture  # noqa: PLC0415

    plain = not live.console.encoding.startswith("utf")
    while True:
        now_s = time.monotonic()
        lines = [host_line(name, outcome.of(name), now_s) for name in _Display.hosts]
        size = live.console.size
        passed_s = now_s - _Display.began_s
        live.update(picture(lines, size.width, size.height, passed_s, plain=plain), refresh=True)
        gevent.sleep(REDRAWN_EVERY_S)


def host_line(name: str, found: Outcome, now_s: float) -> "HostLine":
    """Where a host is, for the picture."""
    from r1fleet.progress import HostLine  # noqa: PLC0415

    return HostLine(
        name,
        found.stage,
        found.doing,
        now_s - found.since_s if found.since_s else 0.0,
        found.moving,
        is_over=found.done or found.failure is not None,
        has_failed=found.failure is not None,
    )
