"""A host key that was accepted at first sight is the only one from then on."""

from pathlib import Path
from typing import Any

from paramiko import HostKeys, RSAKey
from paramiko.client import SSHClient
from pyinfra.connectors.sshuserclient.client import AcceptNewPolicy, get_host_keys

from r1fleet import hostkeys


def test_what_was_accepted_is_known_to_the_next_connection(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    hostkeys.hold()
    hostkeys.hold()  # a second call changes nothing
    key: Any = RSAKey.generate(2048)
    first: Any = SSHClient()
    # As pyinfra's own client does it: one object for all connections with this file.
    first._host_keys, first._host_keys_filename = get_host_keys((str(known),)), str(known)
    AcceptNewPolicy().missing_host_key(first, "gpu1", key)
    second = get_host_keys((str(known),))
    assert second.check("gpu1", key)
    assert not second.check("gpu1", RSAKey.generate(2048))
    assert HostKeys(str(known)).check("gpu1", key)
    assert len(known.read_text().splitlines()) == 1
