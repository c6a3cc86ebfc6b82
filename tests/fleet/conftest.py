"""Tests on eight hosts of one kind: `r1fleet lab up --file lab/eight.yaml`, or make lab-fleet."""

import pytest

from tests.fleet.clients import TOLD
from tests.lab.conftest import lab, served

__all__ = ["lab", "served"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the clients waited: it is told, and nothing depends on it."""
    for line in TOLD:
        terminalreporter.write_line(line)
