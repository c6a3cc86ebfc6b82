"""~/.ssh/config means for a run what it means for ssh."""

from pathlib import Path
from typing import Any

import pytest
from paramiko import RSAKey, SSHException
from pyinfra.connectors.sshuserclient.client import SSHClient, get_missing_host_key_policy
from pyinfra.connectors.sshuserclient.config import SSHConfig

from r1fleet import sshconfig

CONFIG = """
Include more/*.conf

Host inner
    HostName 10.0.0.7
    User anna
    Port 2222
    ProxyJump bastion

Host plain
    ProxyCommand none

Match host matched exec "test -e {folder}/there"
    Port 2200

Host *
    ProxyJump bastion
    ServerAliveInterval 15
"""
MORE = """
Host bastion
    HostName 10.0.0.1
    Port 22
    ProxyJump none
"""


@pytest.fixture
def config(tmp_path: Path) -> Any:
    sshconfig.hold()
    sshconfig.hold()  # a second call changes nothing
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.conf").write_text(MORE)
    (tmp_path / "config").write_text(CONFIG.format(folder=tmp_path))
    found: Any = SSHConfig()
    with (tmp_path / "config").open() as file:
        found.parse(file)
    return found


def test_an_alias_has_its_name_user_port_and_way(config: Any) -> None:
    found = config.lookup("inner")
    wanted = {"hostname": "10.0.0.7", "user": "anna", "port": 2222, "proxyjump": "bastion"}
    assert {key: found[key] for key in wanted} == wanted


def test_no_proxy_is_none(config: Any) -> None:
    for name in ("bastion", "plain"):
        found = config.lookup(name)
        assert "proxyjump" not in found, name
        assert "proxycommand" not in found, name
    assert config.lookup("other")["proxyjump"] == "bastion"


def test_a_jump_host_is_looked_for_in_known_hosts_by_its_plain_name(config: Any) -> None:
    name, way = SSHClient.derive_shorthand(config, "bastion")
    assert (name, way["port"]) == ("bastion", 22)  # "22" would be looked for as [bastion]:22


def test_match_exec_runs_its_command(config: Any, tmp_path: Path) -> None:
    assert "port" not in config.lookup("matched")
    (tmp_path / "there").touch()
    assert config.lookup("matched")["port"] == 2200


def test_nobody_is_asked_about_a_jump_host_that_is_not_known(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("it asks"))
    policy: Any = get_missing_host_key_policy(None)  # as pyinfra has it for jump hosts
    with pytest.raises(SSHException, match="No host key for bastion"):
        policy.missing_host_key(None, "bastion", RSAKey.generate(2048))
