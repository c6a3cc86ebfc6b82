"""~/.ssh/config, read as ssh reads it where pyinfra would not.

`ProxyJump none` and `ProxyCommand none` mean no proxy, and the first of the two that is set counts;
`Match exec` runs its command; and the key of a jump host that is not known is refused: pyinfra asks
for it on the terminal, in the middle of a run and once for each host behind it.
"""

import os
import subprocess
from typing import Any

_PROXIES = ("proxycommand", "proxyjump")


def hold() -> None:
    """From now on all connections of this process are made so."""
    from pyinfra.connectors.sshuserclient import client, config  # noqa: PLC0415  slow

    lookup = config.SSHConfig.lookup
    if lookup.__module__ == __name__:
        return

    def look_up(self: config.SSHConfig, hostname: str) -> Any:
        return _as_ssh(lookup(self, hostname))

    as_ssh: Any = look_up
    config.SSHConfig.lookup = as_ssh  # type: ignore[method-assign]
    config.FakeInvoke.run = staticmethod(_run)  # type: ignore[assignment,method-assign]
    refuse: Any = client.StrictPolicy.missing_host_key
    client.AskPolicy.missing_host_key = refuse  # type: ignore[method-assign]


def _as_ssh(found: Any) -> Any:
    """The options of one host, changed in place."""
    first = next((key for key in found if key in _PROXIES), None)
    for key in _PROXIES:
        if key in found and (key != first or str(found[key]).lower() == "none"):
            del found[key]
    if "port" in found:  # as text it is another than the default, even if it is 22
        found["port"] = int(found["port"])
    return found


def _run(command: str, *_: object, **__: object) -> Any:
    """`Match exec`: whether the command ends with 0."""
    from pyinfra.connectors.sshuserclient.config import FakeInvokeResult  # noqa: PLC0415

    result: Any = FakeInvokeResult()
    words = [os.environ.get("SHELL", "/bin/sh"), "-c", command]
    nothing = subprocess.DEVNULL
    done = subprocess.run(words, stdin=nothing, stdout=nothing, stderr=nothing, check=False)
    result.ok = done.returncode == 0
    return result
