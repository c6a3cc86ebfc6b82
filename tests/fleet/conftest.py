"""Tests on eight hosts of one kind, and one that balances over them: `r1fleet lab up --file
lab/eight.yaml`, or make lab-fleet."""

import pytest

from tests.fleet.clients import TOLD
from tests.lab.conftest import Lab, fault, served
from tests.lab.conftest import lab as whole_lab

__all__ = ["fault", "lab", "served", "whole_lab"]


@pytest.fixture(scope="session")
def lab(whole_lab: Lab) -> Lab:
    """The hosts that serve; the one that balances is asked for by its name."""
    whole_lab.hosts.remove("gateway")
    return whole_lab


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the clients waited: it is told, and nothing depends on it."""
    for line in TOLD:
        terminalreporter.write_line(line)
