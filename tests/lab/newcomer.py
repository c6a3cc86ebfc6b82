"""A new user with a home of their own, who has two hosts that no inventory has.

One is `pc1`, entered as root by its address. The other is `odd` (lab/odd.py): an alias of
~/.ssh/config, reached through pc1 on another port, as a user whose shell is fish and whose sudo
wants a password.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.odd import PASSWORD, PORT, USER
from tests.lab import typed
from tests.lab.conftest import BIN, Lab

ODD = "workshop"  # the alias
SOURCE = "sudo_password=env:R1TEST_SUDO"


@dataclass(frozen=True)
class User:
    """A person with a home of their own, and the fleet's directory in it."""

    home: Path
    pc: str  # the address of the other host

    @property
    def folder(self) -> Path:
        return self.home / "fleet"

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {"HOME": str(self.home), "TERM": "dumb", "COLUMNS": "160"} | more

    def type(self, *words: str, cwd: Path | None = None) -> typed.Typed:
        """Run a command on a terminal and type the password where it asks."""
        argv: list[str | Path] = [BIN / words[0], *words[1:]]
        return typed.run(argv, cwd or self.folder, self.environment(), PASSWORD)

    def run(
        self, *words: str, password: str = PASSWORD, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """The same without a terminal: the password comes from the environment."""
        source = () if words[0] == "r1fleet" and words[1] == "ask" else ("--data", SOURCE)
        return subprocess.run(
            [BIN / words[0], *words[1:], *source],
            cwd=self.folder,
            env=self.environment(R1TEST_SUDO=password, **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def move_in(lab: Lab, home: Path) -> User:
    """~/.ssh as people have it: an alias behind a jump host, in a file that is included."""
    ssh = home / ".ssh"
    (ssh / "config.d").mkdir(parents=True)
    (ssh / "key").write_bytes(lab.state.key.read_bytes())
    (ssh / "key").chmod(0o600)
    pc, odd = (lab.state.hosts[name].address for name in ("pc1", "odd"))
    (ssh / "config").write_text(
        "Include config.d/*.conf\n\nHost *\n"
        "    IdentityFile ~/.ssh/key\n    IdentitiesOnly yes\n    ServerAliveInterval 15\n"
    )
    (ssh / "config.d" / "workshop.conf").write_text(
        f"Host jump\n    HostName {pc}\n    Port 22\n    User root\n    ProxyJump none\n\n"
        f"Match originalhost {ODD}\n    HostName {odd}\n    Port {PORT}\n    User {USER}\n"
        "    ProxyJump jump\n"
    )
    lines = [line.split() for line in lab.state.known_hosts.read_text().splitlines()]
    known = [(names.split(",")[0], kind, key) for names, kind, key in lines]
    (ssh / "known_hosts").write_text(
        "".join(f"{address},[{address}]:{PORT} {kind} {key}\n" for address, kind, key in known)
    )
    return User(home, pc)


def use_servers_of(lab: Lab, user: User) -> None:
    """The lab's own servers stand in for the internet."""
    state, keyrings = lab.state, lab.state.driver_keyring_sha256
    values = {
        "engine_version": state.engine_version,
        "engine_url": f"{state.artifact_url}/ollama",
        "engine_sha256": state.engine_sha256,
        "registry_url": state.registry_url,
        "model_digests": state.model_digests,
        "driver_repository_url": state.driver_repository_url,
        "driver_keyring_sha256": keyrings[state.hosts["pc1"].release],
    }
    settings = user.folder / "group_data" / "all.py"
    lines = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    settings.write_text(f"{settings.read_text()}\n# The lab's own servers\n{lines}")
    inventory = user.folder / "inventory.py"
    own = f'"driver_keyring_sha256": "{keyrings[state.hosts["odd"].release]}"'
    inventory.write_text(inventory.read_text().replace('"_sudo": True', f'"_sudo": True, {own}'))
