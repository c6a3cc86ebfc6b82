"""SSH host keys that were accepted at first sight hold for the rest of the run.

pyinfra writes such a key to known_hosts, but a run goes on with what it had read there at its
start: the same host could come back with any other key, as after a reboot, and it would be taken
and written beside the first.
"""

from typing import Any


def hold() -> None:
    """From now on a key that is accepted is known to all later connections of this process."""
    from pyinfra.connectors.sshuserclient.client import AcceptNewPolicy  # noqa: PLC0415  slow

    accept = AcceptNewPolicy.missing_host_key
    if accept.__module__ == __name__:
        return

    def accept_once(policy: AcceptNewPolicy, client: Any, hostname: str, key: Any) -> None:
        accept(policy, client, hostname, key)  # type: ignore[no-untyped-call]
        client.get_host_keys().add(hostname, key.get_name(), key)

    AcceptNewPolicy.missing_host_key = accept_once  # type: ignore[method-assign]
