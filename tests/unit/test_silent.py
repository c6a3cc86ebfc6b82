"""A host that accepts a connection and never speaks."""

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from pyinfra.connectors import ssh
from pyinfra.connectors.ssh import SSHConnector

from r1fleet import silent


@pytest.fixture
def mute() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts
        yield listener.getsockname()


def test_it_is_named_after_one_try_however_many_keys_the_agent_has(
    mute: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent.hold()
    silent.hold()  # a second call changes nothing
    agent = SimpleNamespace(get_keys=lambda: pytest.fail("it tries the agent's keys"))
    monkeypatch.setattr(ssh, "Agent", lambda: agent)
    connector: Any = object.__new__(SSHConnector)
    connector.client = ssh.SSHClient()
    with pytest.raises(SSHException) as plain:
        connector.client.connect(mute[0], port=mute[1], timeout=0.3, allow_agent=False)
    with pytest.raises(SSHException, match="took the connection and then said nothing"):
        connector._retry_paramiko_agent_keys(mute[0], {"allow_agent": True}, plain.value)


def test_another_fault_of_a_connection_keeps_its_name() -> None:
    silent.hold()
    connector: Any = object.__new__(SSHConnector)
    connector.client = ssh.SSHClient()  # without a transport: a jump host's key is not known
    error = SSHException("StrictPolicy: No host key for jump found in known_hosts")
    assert not connector._retry_paramiko_agent_keys("inner", {"allow_agent": True}, error)
