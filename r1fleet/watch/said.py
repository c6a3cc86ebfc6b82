"""What a host's watch has to say, from the probe: for JSON, and in lines. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from r1fleet.hostfacts import Probe
from r1fleet.words import age

UNIT = "r1fleet-watch.service"
DAY_S = 86400


def facts(probe: Probe, now: datetime) -> dict[str, Any] | None:
    """None where there is no watch, or it has not looked yet.

    + repairs: how many in the last 24 hours; since_s: how long it has been so
    """
    found = probe.watch
    if found is None:
        return None
    clock_s = now.timestamp()
    return {
        "faults": list(found.faults),
        "what": found.what if found.faults else "",
        "since_s": max(0, round(clock_s - found.since_s)),
        "repairs": len([at_s for at_s in found.repairs_s if clock_s - at_s < DAY_S]),
        "is_broken": probe.unit(UNIT).active == "failed",
    }


def lines(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What of `facts` a person should know; nothing while all is well."""
    if found is None:
        return
    if found["is_broken"]:
        yield "its last look was cut off"
    if found["faults"]:
        yield f"failing for {age(found['since_s'])}: {found['what']}"
    if found["repairs"]:
        times = "once" if found["repairs"] == 1 else f"{found['repairs']} times"
        yield f"the model was on the CPU: the engine was restarted for it {times} in 24 hours"
