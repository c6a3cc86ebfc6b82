"""Passwords that pyinfra itself would show, and what is done about them.

It puts one for sudo or su into the remote command line, which every user of the host can read in
the process list; and with --debug it prints what it connects with.
"""

import logging
from collections.abc import Mapping
from typing import Any

REFUSED = ("_sudo_password", "_su_password")
FIX = "set sudo_password instead (docs/hosts.md), or enter as root with a key"


def refused(hosts: Mapping[str, Mapping[str, object]], config: Any) -> list[str]:
    """A line for each password in the hosts' data or pyinfra's config that their process lists
    would show.

    From here on pyinfra does not ask for one either, in the middle of a run: a host where sudo
    wants a password fails, alone.
    """
    from pyinfra.connectors import util  # noqa: PLC0415  slow to import

    util.SUDO_PASSWORD_REQUIRED_LINES = ()  # type: ignore[assignment]
    found = [f"{host}: {key}" for host, data in hosts.items() for key in REFUSED if data.get(key)]
    if getattr(config, "SUDO_PASSWORD", None):
        found.append("--same-sudo-password")
    return [
        f"{where}: everybody on the host could read it in the process list; {FIX}"
        for where in found
    ]


class Hidden(logging.Filter):
    """Takes passwords out of what pyinfra's log prints of a connection."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_without(arg) for arg in record.args)
        return True


def hide() -> None:
    """From now on pyinfra's log shows no password of a connection."""
    logging.getLogger("pyinfra").addFilter(Hidden())


def _without(arg: object) -> object:
    if not isinstance(arg, dict) or not any("pass" in str(key) for key in arg):
        return arg
    return {key: "***" if "pass" in str(key) else value for key, value in arg.items()}
