"""Turns at rebooting: so many hosts that were serving may be out of service at a time."""

import time

from pyinfra.api import Host

from r1fleet import outcome
from r1fleet.remote import HostFailure, host_task, say

EVERY_S = 1

# Hosts that have had their turn in this run.
_taken: list[str] = []


@host_task
def take_turn(host: Host, stage: str, title: str, at_once: int) -> None:
    """Return when fewer than `at_once` other hosts are out of service for a reboot.

    A host is out from its turn until it has been proven again. One that failed stays out: when
    only such are left, this host fails too, and goes on serving what it serves.
    """
    told = False
    while len(out := _out_of_service(host.name)) >= at_once:
        lost = [name for name in out if outcome.of(name).failure]
        if len(lost) >= at_once:
            raise HostFailure(
                title,
                f"{', '.join(lost)} did not come back to service",
                "repair it first, or raise rollout_reboots_at_once; then run again",
            )
        if not told:
            say(host, stage, f"waits for {', '.join(out)} to serve again")
            told = True
        time.sleep(EVERY_S)
    _taken.append(host.name)


def _out_of_service(me: str) -> list[str]:
    return [name for name in _taken if name != me and not outcome.of(name).done]
