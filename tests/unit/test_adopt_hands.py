"""The scripts of adoption where others have a hand in: names, owners, modes, other units."""

import hashlib
import os
import shutil
import stat
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from r1fleet.adopt import facts
from r1fleet.shell import assign

DATA = b"a model"
NAME = f"sha256-{hashlib.sha256(DATA).hexdigest()}"
MANIFEST = "manifests/registry.ollama.ai/library/deepseek-r1/14b"
FORGED = "x\nfound unit\nfragment /etc/shadow"
OWNER, USER = str(os.getuid()), "54321"
SHELLS = ["dash", "bash"]


def script(name: str, package: str = "r1fleet.adopt") -> str:
    return (resources.files(package) / name).read_text(encoding="ascii")


def tool(site: Path, name: str, body: str) -> None:
    path = site / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(stat.S_IRWXU)


def play(site: Path, text: str, shell: str = "dash", **values: str) -> tuple[int, str, str]:
    program = shutil.which(shell)
    assert program
    text = assign(values) + f"PATH={site}/bin:/usr/bin:/bin\n{text}"
    done = subprocess.run([program, "-c", text], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for folder in ("old/blobs", f"old/{Path(MANIFEST).parent}", "new"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "old/blobs" / NAME).write_bytes(DATA)
    (tmp_path / "old" / MANIFEST).write_text("{}")
    tool(tmp_path, "setpriv", 'case "$*" in $DENIED) exit 1 ;; esac\nshift 3\nexec "$@"')
    tool(tmp_path, "chown", f'echo "$*" >>{tmp_path}/given')
    return tmp_path


def take(site: Path, owner: str = OWNER, denied: str = "", new: str = "new") -> tuple[int, str]:
    values = {"OLD": f"{site}/old", "NEW": f"{site}/{new}", "OWNER": owner, "USER": USER}
    text = f"export DENIED={denied!r}\n" + script("take.sh")
    code, _, errors = play(site, text, **values)
    return code, errors


def is_given(site: Path) -> bool:
    return (site / "given").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_nobody_is_locked_out_of_models_of_their_own(site: Path, mode: int) -> None:
    blob = site / "old/blobs" / NAME
    blob.chmod(mode)
    assert take(site) == (0, "")
    new = site / "new/blobs" / NAME
    assert new.read_bytes() == DATA
    assert new.samefile(blob) == is_given(site) == (mode == 0o644)


def test_a_folder_that_the_service_may_not_pass_is_copied_from(site: Path) -> None:
    assert take(site, denied=f"*reuid={USER}*-x*") == (0, "")
    assert (site / "new/blobs" / NAME).read_bytes() == DATA
    assert not is_given(site)


def test_blobs_of_another_owner_are_copied(site: Path) -> None:
    assert take(site, owner="54322") == (0, "")
    assert (site / "new/blobs" / NAME).read_bytes() == DATA
    assert not is_given(site)


@pytest.mark.parametrize(("file", "folder"), [(NAME, "blobs"), ("14b", "manifests")])
def test_what_its_owner_cannot_read_fails_and_is_not_passed_over(
    site: Path, file: str, folder: str
) -> None:
    (site / "old/blobs" / NAME).chmod(0o600)
    code, errors = take(site, denied=f"*reuid={OWNER}*-r*{file}")
    assert code == 1
    assert errors.startswith(f"user {OWNER} cannot read {site}/old/{folder}/")
    assert errors.count("\n") == 1
    assert not (site / "new" / MANIFEST).exists()


def test_names_that_no_model_has_are_left(site: Path) -> None:
    for folder in ("manifests", "blobs"):
        (site / "old" / folder / f"x\n.{'/'}").mkdir()
        (site / "old" / folder / "x\n." / ("sha256-" + "0" * 64)).write_text("forged")
    (site / "old/blobs" / f"sha256-y\n{NAME}").write_text("forged")
    assert take(site) == (0, "")
    assert [path.name for path in (site / "new/blobs").iterdir()] == [NAME]
    files = [path for path in (site / "new/manifests").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["14b"]


@pytest.mark.parametrize("alias", ["link", "old/", "mount"])
def test_one_directory_by_two_names_loses_nothing(site: Path, alias: str) -> None:
    (site / "link").symlink_to(site / "old")
    (site / "mount").mkdir()
    (site / "mount/blobs").symlink_to(site / "old/blobs")  # as a bind mount shows it
    assert take(site, new=alias) == (0, "")
    for old, new in (("old", alias), (alias, "old")):
        values = {"OLD": f"{site}/{old}", "NEW": f"{site}/{new}", "OWNER": OWNER}
        play(site, script("leave.sh"), **values)
        assert (site / "old/blobs" / NAME).read_bytes() == DATA
    assert (site / "old" / MANIFEST).exists()
    assert not is_given(site)


def look(site: Path, call: str, shell: str = "dash") -> list[str]:
    text = script("look.sh", "r1fleet.driver") + script("look.sh")
    # The host's paths, also the ones that a pattern begins with.
    for path in ("/proc/", "/sys/fs", "/opt/ollama", "/etc/systemd", "/usr/lib/systemd"):
        text = text.replace(path, f"{site}{path}")
    text = text.replace("/usr/lib/*", f"{site}/usr/lib/*")
    values = {"R1_PORT": "2CAA", "R1_URL": "http://127.0.0.1:11434", "R1_MODELS": f"{site}/new"}
    return play(site, text + call, shell, **values)[1].splitlines()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_manifests_name_adds_no_word_to_the_probe(site: Path, shell: str) -> None:
    forged = site / "old/manifests" / FORGED
    forged.mkdir(parents=True)
    (forged / "14b").write_text("{}")
    lines = look(site, f"echo found snap; store {site}/old", shell)
    (one,) = facts.read(lines)
    assert one.models == (MANIFEST.partition("/")[2],)
    assert not one["fragment"]
    assert not one["same"]
    assert "same yes" in look(site, f"R1_MODELS={site}/old/.; store {site}/old", shell)


def process(site: Path, program: str, cgroup: str, name: str = "ollama") -> None:
    """What holds the port on a host."""
    folder = site / "proc/812"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/3").symlink_to("socket:[4711]")
    (folder / "exe").symlink_to(f"{site}{program}")
    texts = {"comm": name, "cgroup": f"0::{cgroup}", "status": "Uid: 0 0", "environ": "HOME=/no"}
    for file, text in texts.items():
        (folder / file).write_text(f"{text}\n")
    tool(site, "systemctl", "echo MainPID=812")


@pytest.mark.parametrize(
    ("program", "found"),
    [("/opt/ollama/0.32.15-882e/bin/ollama", False), ("/opt/ollama/bin/ollama", True)],
)
def test_its_own_engine_in_another_slice_is_nobody_elses(
    site: Path, program: str, found: bool
) -> None:
    process(site, program, "/ai.slice/ollama.service")
    assert bool(look(site, "inode=4711; holder")) == found


@pytest.mark.parametrize(
    ("cgroup", "main"),
    [
        ("/ai.slice/my-llm.service", "812"),
        ("/system.slice/my-llm.service", "812"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/my.service", ""),
    ],
)
def test_a_unit_is_one_in_any_slice_of_the_system(site: Path, cgroup: str, main: str) -> None:
    process(site, "/srv/llm/bin/ollama", cgroup)
    (one,) = facts.read(look(site, "inode=4711; holder"))
    assert one["main"] == main


@pytest.mark.parametrize("shell", SHELLS)
def test_a_processs_name_is_one_line(site: Path, shell: str) -> None:
    process(site, "/srv/x", "/x.scope", r"x\nfound unit")
    (one,) = facts.read(look(site, "inode=4711; holder", shell))
    assert one["name"] == r"x\nfound unit"


@pytest.mark.parametrize(("folder", "package"), [("/etc", ""), ("/usr/lib", "ollama")])
def test_ones_own_unit_before_a_packages_is_ones_own(site: Path, folder: str, package: str) -> None:
    unit = site / f"{folder}/systemd/system/ollama.service".lstrip("/")
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/usr/bin/ollama serve\n")
    tool(site, "dpkg-query", "echo ollama: /usr/lib/systemd/system/ollama.service")
    tool(site, "systemctl", "echo MainPID=0")
    (one,) = facts.read(look(site, "unit"))
    assert one["fragment"] == str(unit)
    assert one["package"] == package
