"""When there is a live display, and what goes to lines instead."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import live, outcome, remote
from r1fleet.live import host_line
from r1fleet.moving import Moving


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fixture: pytest changes the streams once more before it calls the test."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "argv", ["pyinfra", "inventory.py", "deploy.py"])
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("PYINFRA_PROGRESS", raising=False)


def test_a_terminal_has_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    assert live.is_wanted()
    monkeypatch.setenv("NO_COLOR", "1")
    assert live.is_wanted()


@pytest.mark.parametrize(
    ("name", "value"), [("TERM", "dumb"), ("PYINFRA_PROGRESS", "off"), ("TERM", "unknown")]
)
def test_the_environment_can_say_no(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    on_a_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    assert not live.is_wanted()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_none_where_a_stream_is_no_terminal(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    on_a_terminal(monkeypatch)
    monkeypatch.setattr(sys, stream, io.StringIO())
    assert not live.is_wanted()


def test_none_with_json(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["pyinfra", "--json"])
    assert not live.is_wanted()


def test_lines_go_whole_above_the_display_and_the_streams_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_terminal(monkeypatch)
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(live._Display, "hosts", ("gpu1",))
    out, error = sys.stdout, sys.stderr
    outcome.of("gpu1").at("pull", "brings deepseek-r1:14b")
    live.begin()
    assert live.is_on()
    print("a line of " + "many letters " * 30, file=sys.stderr)
    print("cut", end="", file=sys.stderr)
    live.end()
    assert (sys.stdout, sys.stderr) == (out, error)
    assert not live.is_on()
    assert isinstance(error, io.StringIO)
    told = error.getvalue()
    assert "a line of " + "many letters " * 30 in told
    assert told.count("cut") == 1
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")  # the cursor is shown again
    live.end()  # twice is once


def test_progress_without_a_display_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    lines: list[str] = []
    monkeypatch.setattr(remote.logger, "info", lines.append)
    now_s = 1000.0
    monkeypatch.setattr(remote.time, "monotonic", lambda: now_s)
    host: Any = SimpleNamespace(name="h", print_prefix="[h] ")
    remote.say(host, "pull", "begins")
    for _ in range(25):
        now_s += 1
        remote.tell(host, "pull", f"at {now_s:g}")
    assert lines == ["[h] pull    begins", "[h] pull    at 1010", "[h] pull    at 1020"]


def test_what_the_display_shows_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    found = outcome.of("h")
    assert host_line("h", found, 100.0).stage == ""
    found.at("pull", "brings it")
    found.moving = Moving("x", 1, 2)
    shown = host_line("h", found, found.since_s + 7)
    assert (shown.stage, shown.text, shown.at_work_s) == ("pull", "brings it", 7.0)
    assert shown.moving == Moving("x", 1, 2)
    found.at("engine", "starts Ollama")
    assert host_line("h", found, found.since_s).moving is None
    found.failure = "it broke"
    assert host_line("h", found, 0.0).has_failed
