"""The scripts of adoption on folders of this machine: the probe's part, and taking models along."""

import hashlib
import shutil
import stat
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from r1fleet.model import move
from r1fleet.shell import assign

HEAD = "  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode"
ROW = "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0  0 4711 1"
SHELLS = ["dash", "bash"]


def script(name: str) -> str:
    return (resources.files("r1fleet.adopt") / name).read_text(encoding="ascii")


class Site:
    """A host's /proc, /sys and /opt as far as the probe looks at them; nothing can be started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.put("proc/net/tcp", HEAD)
        self.put("proc/net/tcp6", HEAD)

    def put(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def manage(self, *, runs: bool) -> None:
        """r1fleet manages this host; its engine runs, or is down."""
        link = self.folder / "opt/ollama/current"
        link.parent.mkdir(parents=True)
        link.symlink_to("0.1")
        if runs:
            self.put("sys/fs/cgroup/system.slice/ollama.service/cgroup.procs", "77\n78")

    def listen(self, local: str, table: str = "tcp", state: str = "0A") -> None:
        self.put(f"proc/net/{table}", f"{HEAD}\n{ROW.format(local=local, state=state)}")

    def ask(self, shell: str) -> subprocess.CompletedProcess[str]:
        text = script("look.sh")
        for path in ("/proc/", "/sys/fs", "/opt/ollama"):
            text = text.replace(path, f"{self.folder}{path}")
        # What these would find is another matter.
        text += "\nholder() { echo found port; }; unit() { :; }; snap() { :; }\nexisting\n"
        values = assign({"R1_PORT": "2CAA", "R1_URL": "http://127.0.0.1:11434"})
        program = shutil.which(shell)
        assert program
        return subprocess.run(
            [program, "-c", f"PATH=/nowhere\n{values}{text}"],
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_host_whose_engine_is_r1fleets_and_runs_starts_no_process(site: Site, shell: str) -> None:
    site.manage(runs=True)
    site.listen("0100007F:2CAA")
    done = site.ask(shell)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("local", "table", "holds"),
    [
        ("0100007F:2CAA", "tcp", True),
        ("00000000:2CAA", "tcp", True),
        ("00000000000000000000000000000000:2CAA", "tcp6", True),
        ("00000000000000000000000001000000:2CAA", "tcp6", True),
        ("0000000000000000FFFF00000100007F:2CAA", "tcp6", True),
        ("0501A8C0:2CAA", "tcp", False),  # another address of the host
        ("0100007F:2CAB", "tcp", False),
        ("7F02010A:2CAA", "tcp", False),  # 10.1.2.127
        ("B80D0120000000000000000005000000:2CAA", "tcp6", False),
    ],
)
def test_who_else_listens_is_seen(
    site: Site, shell: str, local: str, table: str, holds: bool
) -> None:
    site.manage(runs=False)
    site.listen(local, table)
    assert site.ask(shell).stdout == ("found port\n" if holds else "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_connection_is_no_listener(site: Site, shell: str) -> None:
    site.listen("0100007F:2CAA", state="01")
    assert site.ask(shell).stdout == ""
    site.listen("0100007F:2CAA")
    assert site.ask(shell).stdout == "found port\n"


DATA = b"a model"
SUM = hashlib.sha256(DATA).hexdigest()
BLOB = f"blobs/sha256-{SUM}"
MANIFEST = "manifests/registry.ollama.ai/library/deepseek-r1/14b"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    old = tmp_path / "old"
    for folder in ("blobs", str(Path(MANIFEST).parent)):
        (old / folder).mkdir(parents=True)
    (old / BLOB).write_bytes(DATA)
    (old / f"{BLOB}-partial").write_bytes(b"half")
    (old / MANIFEST).write_text("{}")
    (tmp_path / "new").mkdir()
    return tmp_path


def take(site: Path, **tools: str) -> subprocess.CompletedProcess[str]:
    """take.sh with stand-ins for what changes users."""
    tools = {"setpriv": '#!/bin/sh\nshift 3\nexec "$@"\n', "chown": "#!/bin/sh\n", **tools}
    (site / "bin").mkdir(exist_ok=True)
    for name, text in tools.items():
        (site / "bin" / name).write_text(text)
        (site / "bin" / name).chmod(stat.S_IRWXU)
    owner = str((site / "old").stat().st_uid)
    values = {"OLD": f"{site}/old", "NEW": f"{site}/new", "OWNER": owner, "USER": owner}
    text = assign(values) + f"PATH={site}/bin:$PATH\n" + script("take.sh")
    return subprocess.run(["dash", "-c", text], capture_output=True, text=True, check=False)


# Another filesystem: stat's number of it is another one for each question.
FAR = '#!/bin/sh\ncase $2 in %d) echo $$ ;; *) exec /usr/bin/stat "$@" ;; esac\n'


def test_on_one_filesystem_no_byte_is_written_twice(store: Path) -> None:
    assert take(store).returncode == 0
    assert (store / "new" / BLOB).samefile(store / "old" / BLOB)
    assert (store / "new" / MANIFEST).read_text() == "{}"
    assert not (store / "new" / MANIFEST).samefile(store / "old" / MANIFEST)
    assert [path.name for path in (store / "new/blobs").iterdir()] == [f"sha256-{SUM}"]
    assert take(store).returncode == 0  # and again


def test_from_another_filesystem_it_is_copied_and_checked(store: Path) -> None:
    broken = store / f"old/blobs/sha256-{'0' * 64}"
    broken.write_bytes(b"not what its name says")
    assert take(store, stat=FAR).returncode == 0
    assert (store / "new" / BLOB).read_bytes() == DATA
    assert not (store / "new" / BLOB).samefile(store / "old" / BLOB)
    assert not (store / "new/blobs" / broken.name).exists()


def test_a_copy_that_has_no_room_is_not_begun(store: Path) -> None:
    df = "#!/bin/sh\necho head\necho /dev/x 1000000 999000 1000 99% /new\n"
    done = take(store, stat=FAR, df=df)
    assert done.returncode == 1
    assert "0 MiB free and 48 must stay so" in done.stderr
    assert not list((store / "new/blobs").iterdir())


def test_what_is_there_already_stays(store: Path) -> None:
    (store / "new" / MANIFEST).parent.mkdir(parents=True)
    (store / "new" / MANIFEST).write_text("ours")
    assert take(store).returncode == 0
    assert (store / "new" / MANIFEST).read_text() == "ours"


def test_a_link_among_the_blobs_is_not_followed(store: Path) -> None:
    (store / "secret").write_bytes(b"secret")
    name = hashlib.sha256(b"secret").hexdigest()
    (store / f"old/blobs/sha256-{name}").symlink_to(store / "secret")
    assert take(store).returncode == 0
    assert not (store / f"new/blobs/sha256-{name}").exists()


def test_only_what_has_another_name_leaves_the_old_folder(store: Path) -> None:
    take(store)
    (store / "old/blobs" / f"sha256-{'1' * 64}").write_bytes(b"came later")
    values = {"OLD": f"{store}/old", "NEW": f"{store}/new", "OWNER": "0"}
    text = f"PATH={store}/bin:$PATH\n" + assign(values) + script("leave.sh")
    subprocess.run(["dash", "-c", text], check=True)
    assert not (store / "old" / BLOB).exists()
    assert (store / "new" / BLOB).read_bytes() == DATA
    assert (store / "old/blobs" / f"sha256-{'1' * 64}").exists()
    assert (store / "old" / MANIFEST).exists()


@pytest.mark.parametrize("name", ["old/", "link"])
@pytest.mark.parametrize("part", ["leave.sh", "move"])
def test_one_directory_of_two_names_loses_nothing(store: Path, name: str, part: str) -> None:
    """A link, or a slash at the end: every file has "another name", its only one."""
    (store / "link").symlink_to(store / "old")
    text = script(part) if part == "leave.sh" else f"export OLD NEW\n{move._LEAVE}"
    take(store)  # for its stand-ins
    values = {"OLD": f"{store}/{name}", "NEW": f"{store}/old", "OWNER": "0"}
    words = ["dash", "-c", f"PATH={store}/bin:$PATH\n" + assign(values) + text]
    subprocess.run(words, check=True)
    assert (store / "old" / BLOB).read_bytes() == DATA
    assert (store / "old" / MANIFEST).exists()


def test_what_others_cannot_read_is_copied_and_its_owner_keeps_it(store: Path) -> None:
    """As with umask 077: given to the service, it would be out of its owner's reach."""
    (store / "old" / BLOB).chmod(0o600)
    note = f'#!/bin/sh\necho "$*" >>{store}/chowned\n'
    assert take(store, chown=note, find=NOT_THE_SERVICES).returncode == 0
    assert (store / "new" / BLOB).read_bytes() == DATA
    assert not (store / "new" / BLOB).samefile(store / "old" / BLOB)
    assert not (store / "chowned").exists()


# Owner and service are one user here: what asks for the service's files finds none.
NOT_THE_SERVICES = r"""#!/bin/sh
case "$*" in *" -user "*" -o -user "*" -perm -004"*) exec /usr/bin/find "$1" -perm -004 ;; esac
exec /usr/bin/find "$@"
"""


def test_what_its_owner_cannot_read_is_said_and_no_model_is_taken_half(store: Path) -> None:
    tool = '#!/bin/sh\nshift 3\ncase "$*" in *"-r "*) exit 1 ;; esac\nexec "$@"\n'
    done = take(store, setpriv=tool, stat=FAR)
    assert done.returncode == 1
    assert f"cannot read {store}/old/blobs/sha256-{SUM}" in done.stderr
    assert not (store / "new" / MANIFEST).exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_no_name_of_a_file_is_a_line_of_the_probe(tmp_path: Path, shell: str) -> None:
    (tmp_path / "store/blobs").mkdir(parents=True)
    evil = tmp_path / "store/manifests" / "x\nfound unit\nfragment " / "etc" / "shadow\nexec a"
    evil.mkdir(parents=True)
    (evil / "ollama").write_text("")
    (tmp_path / "store/manifests/sound").write_text("")
    driver = (resources.files("r1fleet.driver") / "look.sh").read_text(encoding="ascii")
    text = f"{driver}\n{script('look.sh')}\nR1_MODELS={tmp_path}\nstore {tmp_path}/store\n"
    text += "name='\\nmark wsl'; echo \"name $name\"\n"
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(("found", "fragment", "mark"))] == []
    assert "model sound" in lines
    assert "name \\nmark wsl" in lines
