"""A model directory that is moved: the plan, and move.sh on folders of this machine."""

import hashlib
import os
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from r1fleet.hostfacts import ModelStore
from r1fleet.model import move
from r1fleet.model.manifest import Blob, ModelManifest, missing, state_entry
from r1fleet.shell import assign
from tests.unit.build import bare

DATA = b"a model"
SUM = hashlib.sha256(DATA).hexdigest()
MANIFEST = "manifests/registry.ollama.ai/library/deepseek-r1/14b"


@pytest.mark.parametrize(
    ("mount", "old"),
    [
        (["/srv/a", "/"], "/srv/a"),
        (["/srv/b", "/"], None),
        (["srv", "/"], None),
        (None, None),
        ("x", None),
        ([1, 2], None),
    ],
)
def test_the_former_directory_by_the_record(mount: object, old: str | None) -> None:
    assert move.former({"models_mount": mount}, "/srv/b") == old


def test_a_dry_run_counts_on_what_the_record_says_is_there() -> None:
    manifest = ModelManifest(f"sha256:{SUM}", (Blob(f"sha256:{SUM}", 7),))
    state = {"models_mount": ["/srv/a", "/"], "models": {"m:1": state_entry(manifest), "n:1": 3}}
    probe = bare(state=state, models=ModelStore())
    models = move.after("/srv/b", probe).models
    assert models.manifests == {"registry.ollama.ai/library/m/1": SUM}
    assert missing(manifest, models.blobs) == ()
    assert move.after("/srv/a", probe) is probe


@pytest.fixture
def store(tmp_path: Path) -> Path:
    old = tmp_path / "old"
    for folder in ("blobs", ".r1fleet-staging", str(Path(MANIFEST).parent)):
        (old / folder).mkdir(parents=True)
    (old / f"blobs/sha256-{SUM}").write_bytes(DATA)
    (old / MANIFEST).write_text("{}")
    (old / ".r1fleet-staging" / ("b" * 64)).write_text("half")
    (tmp_path / "new").mkdir()
    return tmp_path


def play(site: Path, script: str, **tools: str) -> subprocess.CompletedProcess[str]:
    """The script with stand-ins: no other user, no systemd."""
    (site / "bin").mkdir(exist_ok=True)
    stubs = {"setpriv": 'while case $1 in --*) ;; *) false ;; esac; do shift; done\nexec "$@"'}
    for name, text in {**stubs, "systemctl": "exit 0", **tools}.items():
        (site / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (site / "bin" / name).chmod(0o755)
    values = {"OLD": f"{site}/old", "NEW": f"{site}/new", "UNIT": "u", "USER": "x"}
    return subprocess.run(
        ["sh", "-c", assign(values) + script],
        env={"PATH": f"{site}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


SCRIPT = (resources.files("r1fleet.model") / "move.sh").read_text()
OTHER_FILESYSTEM = 'case $2 in %d) echo $3 ;; *) exec /usr/bin/stat "$@" ;; esac'


def test_on_one_filesystem_files_get_a_second_name(store: Path) -> None:
    for _ in range(2):  # it can be done again
        done = play(store, SCRIPT)
        assert done.returncode == 0, done.stderr
    blob = store / f"new/blobs/sha256-{SUM}"
    assert blob.samefile(store / f"old/blobs/sha256-{SUM}")
    assert (store / "new" / MANIFEST).read_text() == "{}"
    assert not (store / "new" / MANIFEST).samefile(store / "old" / MANIFEST)
    assert (store / "new/.r1fleet-staging" / ("b" * 64)).read_text() == "half"
    (store / "old/blobs/sha256-of-somebody-else").write_text("came meanwhile")
    assert play(store, f"export OLD NEW\n{move._LEAVE}").returncode == 0
    assert [path.name for path in (store / "old/blobs").iterdir()] == ["sha256-of-somebody-else"]
    (store / "old/blobs/sha256-of-somebody-else").unlink()
    assert play(store, f"export OLD NEW\n{move._LEAVE}").returncode == 0
    assert not (store / "old").exists()
    assert blob.read_bytes() == DATA


def test_one_directory_by_two_names_is_left_alone(store: Path) -> None:
    (store / "new").rmdir()
    (store / "old").rename(store / "new")
    (store / "old").symlink_to(store / "new")
    for text in (SCRIPT, f"export OLD NEW\n{move._LEAVE}"):
        assert play(store, text).returncode == 0
        assert (store / f"new/blobs/sha256-{SUM}").read_bytes() == DATA
        assert (store / "new" / MANIFEST).exists()


def test_to_another_filesystem_they_are_copied_and_checked(store: Path) -> None:
    broken = store / ("old/blobs/sha256-" + "c" * 64)
    broken.write_bytes(b"not what its name says")
    done = play(store, SCRIPT, stat=OTHER_FILESYSTEM)
    assert done.returncode == 0, done.stderr
    blob = store / f"new/blobs/sha256-{SUM}"
    assert blob.read_bytes() == DATA
    assert not blob.samefile(store / f"old/blobs/sha256-{SUM}")
    assert [path.name for path in (store / "new/blobs").iterdir()] == [blob.name]
    assert play(store, f"export OLD NEW\n{move._LEAVE}").returncode == 0
    assert (store / f"old/blobs/sha256-{SUM}").exists()


def test_without_room_nothing_is_copied(store: Path) -> None:
    df = "echo head; echo fs 10000 9999 1 99% /srv"
    done = play(store, SCRIPT, stat=OTHER_FILESYSTEM, df=df)
    assert done.returncode == 1
    assert "has 1 KiB free and 500 must stay so" in done.stderr
    assert list((store / "new").iterdir()) == []


def test_a_former_directory_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert play(tmp_path, SCRIPT).returncode == 0
