"""The lab's network: one bridge on this machine, a fixed address per host, no way out."""

import json
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from lab.paths import BRIDGE, CDN, GATEWAY, NAME, NETWORK, lab_dir
from lab.shell import LabError, run

# A bridge takes the lowest address of its ports unless it has one of its own: with every host that
# comes or goes the others would talk to the wrong one until their ARP entries expire.
# It also marks the bridge as ours: one of the same name with another address is somebody else's.
BRIDGE_MAC = "02:72:31:00:00:01"

# systemd needs about six per host; the usual 128 end at 23 hosts.
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_INSTANCES = 1024


def interface(address: str) -> str:
    """Name of a host's cable on this machine; `ip link set NAME down` breaks it."""
    return f"vb-{machine(address)}"


def machine(address: str) -> str:
    """The host's name for systemd-nspawn, short enough to make an interface name of it."""
    return f"{NAME}{int(IPv4Address(address)) & 0xFF}"


def is_up() -> bool:
    """Whether the lab's own bridge exists."""
    return _mac() == BRIDGE_MAC


def conflicts() -> list[str]:
    """Who else uses the lab's addresses or its bridge name, one line each."""
    found = []
    if _mac() not in (None, BRIDGE_MAC):
        found.append(
            f"the interface {BRIDGE} exists and is not the lab's; "
            f"remove it with: ip link delete {BRIDGE}"
        )
    for route in json.loads(run("ip", "-j", "-4", "route", "show", "table", "all") or "[]"):
        device = route.get("dev", "no device")
        if route["dst"] == "default" or device == BRIDGE:
            continue
        target = IPv4Network(route["dst"], strict=False)
        # The whole of IPv4 in a few routes is how a VPN takes the default route.
        if target.overlaps(NETWORK) and target.prefixlen > 1:
            found.append(
                f"the lab's addresses {NETWORK} are in use: {target} goes to {device}; "
                "end what uses them (often a VPN), or run the lab on another machine"
            )
    return sorted(set(found))


def up() -> None:
    """Make the bridge with the machine's own address on it. Does nothing when it is there."""
    if not is_up():
        run("ip", "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge")
        for address in (GATEWAY, CDN):
            run("ip", "address", "replace", f"{address}/{NETWORK.prefixlen}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    _raise_inotify()


def down() -> None:
    """Remove the bridge and give back what was changed of the machine's settings."""
    if is_up():
        run("ip", "link", "delete", BRIDGE)
    saved = _saved_inotify()
    if saved.exists():
        INOTIFY.write_text(saved.read_text())
        saved.unlink()


def unplug(address: str) -> None:
    """Remove a host's cable; the kernel would take it away too, but not at once."""
    with suppress(LabError):
        run("ip", "link", "delete", interface(address))


def networkd_file(address: str) -> str:
    """What systemd-networkd in the host reads to configure its interface."""
    return (
        "[Match]\nName=host0\n\n"
        f"[Network]\nAddress={address}/{NETWORK.prefixlen}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def _raise_inotify() -> None:
    before = INOTIFY.read_text()
    if int(before) >= INOTIFY_INSTANCES:
        return
    saved = _saved_inotify()
    if not saved.exists():
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_text(before)
    INOTIFY.write_text(f"{INOTIFY_INSTANCES}\n")


def _saved_inotify() -> Path:
    return lab_dir() / "inotify-max-user-instances"


def _mac() -> str | None:
    """The bridge's own address; None: no such interface."""
    with suppress(LabError):
        (link,) = json.loads(run("ip", "-j", "link", "show", "dev", BRIDGE))
        return str(link["address"])
    return None
