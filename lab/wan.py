"""The lab's way to the internet, made as narrow as a real one.

What this machine's services send to the hosts passes a class of the bridge's own egress. Frames
from host to host cross the bridge without it, and so stay as fast as they are; so does SSH.
"""

from lab.paths import ARTIFACT_PORT, BRIDGE, PUBLIC_REGISTRY_PORT, REGISTRY_PORT
from lab.shell import run

PORTS = (REGISTRY_PORT, PUBLIC_REGISTRY_PORT, ARTIFACT_PORT)


def limit(mbit_per_s: int) -> None:
    """Let registry and artifact server send so much together, in place of any former limit."""
    unlimited()
    run("tc", "qdisc", "add", "dev", BRIDGE, "root", "handle", "1:", "htb")
    rate = f"{mbit_per_s}mbit"
    run("tc", "class", "add", "dev", BRIDGE, "parent", "1:", "classid", "1:1", "htb", "rate", rate)
    for port in PORTS:
        run(
            *("tc", "filter", "add", "dev", BRIDGE, "parent", "1:", "protocol", "ip"),
            *("u32", "match", "ip", "sport", str(port), "0xffff", "flowid", "1:1"),
        )


def unlimited() -> None:
    """Take the limit away."""
    if " htb " in run("tc", "qdisc", "show", "dev", BRIDGE):
        run("tc", "qdisc", "delete", "dev", BRIDGE, "root")
