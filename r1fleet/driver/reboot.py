"""One reboot, waited for by boot_id. pyinfra's own compares uptimes and fails a host that is
slow to go down."""

import time
from pathlib import Path

from paramiko import SSHException
from pyinfra.api import Host
from pyinfra.api.exceptions import ConnectError

from r1fleet.remote import HostFailure, changed, host_task, run, say

EVERY_S = 2
REBOOT = "systemd-run -q --on-active=1 --timer-property=AccuracySec=1us systemctl reboot"


@host_task
def reboot(host: Host, stage: str, title: str, boot_id: str, timeout_s: int) -> None:
    """Reboot the host and return when it answers with another boot_id than `boot_id`.

    Other hosts go on meanwhile: sleeping is cooperative.
    """
    say(host, stage, title)
    # From a timer, so that this very command can still end in peace.
    begun = run(host, REBOOT)
    if not begun.ok:
        raise HostFailure(title, begun.reason, "reboot the host, then run again")
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        time.sleep(EVERY_S)
        found = _boot_id(host)
        if found and found != boot_id:
            changed(host, "rebooted")
            say(host, stage, "is back after the reboot")
            return
    raise HostFailure(title, f"not back after {timeout_s} s", "look at its console, then run again")


def own_boot_id() -> str:
    """The boot_id of the machine that runs r1fleet, "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _boot_id(host: Host) -> str | None:
    """The host's boot_id over a fresh connection, None while it does not answer."""
    try:
        # The connector itself: the host's own connect() logs every try.
        if client := getattr(host.connector, "client", None):
            client.close()
        host.connector.connect()
    except ConnectError as error:
        if "host key" in str(error):  # waiting does not make it the same host
            fix = "find out why; if it is right, ssh-keygen -R its address, then run again"
            raise HostFailure("it came back with another SSH host key", str(error), fix) from None
        return None
    except (OSError, EOFError, SSHException):
        return None
    try:
        return run(host, "cat /proc/sys/kernel/random/boot_id", timeout_s=10).stdout.strip()
    except HostFailure:
        return None
