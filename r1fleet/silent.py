"""A host that takes the connection and then says nothing costs one connect timeout, and says so.

paramiko calls it `No existing session`, which pyinfra takes for a fault of the keys that the agent
offers: it tries each of them anew, and each try waits as long again.
"""

from typing import Any

WHY = "it took the connection and then said nothing of SSH: is it hung, or is that port another's?"


def hold() -> None:
    """From now on all connections of this process are made so."""
    from paramiko import SSHException  # noqa: PLC0415
    from pyinfra.connectors.ssh import SSHConnector  # noqa: PLC0415  slow

    retry = SSHConnector._retry_paramiko_agent_keys
    if retry.__module__ == __name__:
        return

    def retry_if_it_spoke(self: SSHConnector, hostname: str, kwargs: Any, error: Any) -> bool:
        transport = self.client.get_transport() if self.client else None
        spoke = transport and transport.remote_version  # there is none where a jump host is silent
        if not spoke and "no existing session" in str(error).lower():
            if transport:
                transport.close()
            raise SSHException(WHY) from error
        return retry(self, hostname, kwargs, error)

    SSHConnector._retry_paramiko_agent_keys = retry_if_it_spoke  # type: ignore[method-assign]
