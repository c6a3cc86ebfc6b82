"""Who a lab host is: its name, its keys, and the key and files that let one log in."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from lab import network
from lab.paths import host_dir, lab_dir
from lab.shell import run


def ssh_key() -> Path:
    """Private key that opens root and ops on every host."""
    return lab_dir() / "ssh" / "id_ed25519"


def known_hosts() -> Path:
    """The hosts' keys, known before their first boot."""
    return lab_dir() / "ssh" / "known_hosts"


def ssh_command(address: str, *command: str, user: str = "root") -> list[str]:
    """An ssh command line that trusts the lab's own keys only and reads no other settings."""
    options = (
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known_hosts()}",
        "ConnectTimeout=5",
        "LogLevel=ERROR",
    )
    flags = [part for option in options for part in ("-o", option)]
    return ["ssh", "-F", "none", "-i", str(ssh_key()), *flags, f"{user}@{address}", *command]


def write(name: str, address: str, etc: Path) -> None:
    """Write what makes a host itself into its /etc: name, address, machine id, keys."""
    files = {
        "hostname": f"{name}\n",
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n",
        "machine-id": f"{uuid.uuid4().hex}\n",
        "ssh/lab_keys": ssh_key().with_suffix(".pub").read_text(),
        "systemd/network/10-lab.network": network.networkd_file(address),
    }
    for file, text in files.items():
        (etc / file).parent.mkdir(parents=True, exist_ok=True)
        (etc / file).write_text(text)
    _keygen(etc / "ssh/ssh_host_ed25519_key", name)


def make_ssh_key() -> None:
    """Make the key that opens the hosts, unless it is there."""
    if not ssh_key().exists():
        ssh_key().parent.mkdir(parents=True, exist_ok=True)
        _keygen(ssh_key(), "r1fleet lab")
    # Whoever called the lab through sudo opens the hosts without it.
    if "SUDO_UID" in os.environ:
        os.chown(ssh_key(), int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


def _keygen(path: Path, comment: str) -> None:
    new = path.with_name(f"{path.name}.new")
    for leftover in (new, new.with_name(f"{new.name}.pub")):
        leftover.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(new))
    new.with_name(f"{new.name}.pub").rename(path.with_name(f"{path.name}.pub"))
    new.rename(path)


def write_known_hosts(addresses: Mapping[str, str]) -> None:
    """Write the public keys of all hosts (address by name) where ssh looks for them."""
    lines = []
    for name, address in addresses.items():
        public = host_dir(name) / "upper/etc/ssh/ssh_host_ed25519_key.pub"
        kind, key, *_ = public.read_text().split()
        lines.append(f"{address},{name} {kind} {key}\n")
    known_hosts().write_text("".join(lines))
