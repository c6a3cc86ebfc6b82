"""lab.json: what the running lab is made of, for the inventory, the tests and people."""

import shutil
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from lab.paths import lab_dir
from lab.shell import Refusal
from lab.spec import Release

VERSION = 1

# Only a folder that has this file is ever deleted.
MARK = ".r1fleet-lab"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class HostState(Frozen):
    """One host. `gpus` are the names of its simulated cards."""

    address: str
    release: Release
    gpus: tuple[str, ...]
    listed: bool = True


class LabState(Frozen):
    """The lab as `lab up` left it. URLs are those that hosts use; key files are on this machine."""

    version: int = VERSION
    hosts: dict[str, HostState]
    artifact_url: str
    registry_url: str
    driver_repository_url: str
    # SHA-256 of its keyring package, by the release that it is for.
    driver_keyring_sha256: dict[Release, str]
    engine_version: str
    engine_sha256: str
    gateway_version: str
    gateway_sha512: str
    # Manifest digest ("sha256:...") by tag ("deepseek-r1:14b").
    model_digests: dict[str, str]
    key: Path
    known_hosts: Path

    @classmethod
    def load(cls) -> Self | None:
        """The lab's state; None when there is no lab."""
        path = _path()
        return cls.model_validate_json(path.read_text()) if path.exists() else None

    def save(self) -> None:
        """Write lab.json at once as a whole."""
        new = _path().with_suffix(".new")
        new.write_text(self.model_dump_json(indent=1) + "\n")
        new.rename(_path())


def claim() -> None:
    """Make the lab's folder, or take it when it is the lab's.

    Raises Refusal when it holds files that are not the lab's: `lab down` deletes the folder.
    """
    home = lab_dir()
    if home.exists() and any(home.iterdir()) and not (home / MARK).exists():
        raise Refusal(
            f"{home} holds files that are not the lab's, and lab down deletes this folder; "
            "name another one in R1_LAB_DIR"
        )
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    (home / MARK).touch()


def release() -> None:
    """Delete the lab's folder. Does nothing when there is none or when it is not the lab's."""
    if not (lab_dir() / MARK).exists():
        return
    for path in lab_dir().iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    # Last, so that an interrupted deletion is taken up again.
    shutil.rmtree(lab_dir())


def _path() -> Path:
    return lab_dir() / "lab.json"
