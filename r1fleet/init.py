"""The files of a user's own directory, as `r1fleet init` writes them. Pure, but for `write`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1fleet.settings import Settings
from r1fleet.templates import render

# The settings that people change first, by the headings under which they look for them.
FIRST: Mapping[str, tuple[str, ...]] = {
    "Entering as a user who is not root": ("sudo_password",),
    "The model and its size": ("tag", "context_min", "context_max", "no_gpu", "cpu_largest_tag"),
    "The engine": (
        "ollama_models",
        "ollama_keep_alive",
        "ollama_num_parallel",
        "https_proxy",
        "pull_rate_limit",
    ),
    "The NVIDIA driver": ("driver_branch", "driver_reboot"),
    "The name that clients ask for": ("alias", "alias_system", "alias_parameters"),
    "The rollout": ("rollout_canary", "rollout_batch"),
}
_NAME = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9._:-]*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*\$?")


class TargetError(ValueError):
    """A host as given cannot be used; the message says why, in one line."""


@dataclass(frozen=True)
class Target:
    """A host as it was given: user@name:port, where user and port may be left out.

    `login` is whom one is there without a user being given.
    """

    name: str
    user: str | None = None
    port: int | None = None
    login: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """What the inventory says of it. A user who is not root is taken to have sudo."""
        found: dict[str, Any] = {}
        if self.user:
            found["ssh_user"] = self.user
        if self.port:
            found["ssh_port"] = self.port
        if (self.user or self.login or "root") != "root":
            found["_sudo"] = True
        return found


def target(text: str) -> Target:
    """Read user@name:port. Raises TargetError."""
    user, at, rest = text.rpartition("@") if not text.startswith("@") else ("", "", text)
    name, colon, port = rest.rpartition(":") if rest.count(":") == 1 else (rest, "", "")
    if at and not _USER.fullmatch(user):
        raise TargetError(f"{text!r}: {user!r} is no user; give it as user@host")
    if not _NAME.fullmatch(name):
        raise TargetError(f"{text!r}: {name!r} is no host; give it as user@host or user@host:port")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise TargetError(f"{text!r}: {port!r} is no port; give it as user@host:22")
    return Target(name, user or None, int(port) if port else None)


def files(targets: Iterable[Target], sudo_password: str | None = None) -> dict[str, str]:
    """Content by path, below the directory."""
    chosen = {"sudo_password": sudo_password} if sudo_password else {}
    hosts = [(one.name, one.data) for one in targets]
    return {
        "inventory.py": render("init-inventory.py", hosts=hosts),
        "group_data/all.py": render("init-all.py", groups=list(_groups()), chosen=chosen),
        "deploy.py": render("init-deploy.py"),
        "rollback.py": render("init-rollback.py"),
        "remove.py": render("init-remove.py"),
        "config.py": render("init-config.py"),
    }


def _groups() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    for heading, names in FIRST.items():
        fields = [(name, Settings.model_fields[name]) for name in names]
        yield heading, [(name, _text(row.default), str(row.description)) for name, row in fields]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def write(folder: Path, content: Mapping[str, str]) -> None:
    """Write the files into a folder, which is made.

    Raises FileExistsError, and writes nothing, when one is there with another content.
    """
    for name, text in content.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
            raise FileExistsError(f"{path} is there already: edit it, or delete it")
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
