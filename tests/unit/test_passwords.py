"""Passwords that pyinfra would show."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.connectors import util

from r1fleet import passwords
from r1fleet.reach import Fleet, InventoryError

NO_CONFIG = SimpleNamespace(SUDO_PASSWORD=None)


@pytest.mark.parametrize("key", ["_sudo_password", "_su_password"])
def test_a_password_for_the_process_list_is_refused_with_a_way_out(key: str) -> None:
    (line,) = passwords.refused({"a": {}, "b": {key: "hunter2", "_sudo": True}}, NO_CONFIG)
    assert line.startswith(f"b: {key}: ")
    assert "set sudo_password instead" in line
    assert "hunter2" not in line


def test_one_from_the_command_line_is_refused_too() -> None:
    (line,) = passwords.refused({"a": {}}, SimpleNamespace(SUDO_PASSWORD="hunter2"))
    assert line.startswith("--same-sudo-password: ")
    assert passwords.refused({"a": {"_sudo": True, "_sudo_password": None}}, NO_CONFIG) == []


def test_commands_that_only_look_refuse_it_as_well() -> None:
    data = {"_sudo_password": "hunter2"}
    host: Any = SimpleNamespace(name="a", groups=[], data=SimpleNamespace(dict=lambda: data))
    state: Any = SimpleNamespace(config=NO_CONFIG)
    log: Any = None
    with pytest.raises(InventoryError, match="a: _sudo_password"):
        Fleet(state, [host], [host], log)


def test_pyinfra_does_not_ask_for_one_in_mid_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand in the process list; and without a terminal to ask at, the whole run ends."""
    said = SimpleNamespace(line="sudo: a password is required")
    output: Any = SimpleNamespace(combined_lines=[said])
    host: Any = SimpleNamespace(print_prefix="", connector_data={})
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "hunter2"

    monkeypatch.setattr(util, "getpass", ask)
    monkeypatch.setattr(util, "SUDO_PASSWORD_REQUIRED_LINES", (said.line,))
    arguments: Any = {}
    util.execute_command_with_sudo_retry(host, arguments, lambda: (1, output))
    assert asked  # pyinfra as it is
    passwords.refused({}, NO_CONFIG)
    asked.clear()
    util.execute_command_with_sudo_retry(host, arguments, lambda: (1, output))
    assert not asked


def test_the_log_of_a_connection_has_no_password(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pyinfra")
    hidden = passwords.Hidden()
    logger.addFilter(hidden)
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG, logger="pyinfra"):
            connection = {"username": "ops", "password": "hunter2", "passphrase": "hunter3"}
            logger.debug("Connecting to: %s (%r)", "gpu1", connection)
    finally:
        logger.removeHandler(caplog.handler)
        logger.removeFilter(hidden)
    assert "gpu1" in caplog.text
    assert "'username': 'ops'" in caplog.text
    assert "hunter" not in caplog.text
    assert connection["password"] == "hunter2"  # what it connects with is another matter
