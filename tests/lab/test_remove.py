"""A host as it was before r1fleet: compared before and after, on a host that no inventory lists."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run, seen

pytestmark = pytest.mark.lab

HOST = "pc1"
INVENTORY = f"""
import runpy
from lab.state import LabState
data = runpy.run_path("inventories/lab.py")["lab"][1]
hosts = ([("{HOST}", {{"ssh_hostname": LabState.load().hosts["{HOST}"].address}})], data)
"""
SNAPSHOT = r"""
export LC_ALL=C
find /etc /usr /opt /root /home /srv /boot /var/lib -xdev -printf 'file %p %y %M %u:%g %l\n'
find /etc /usr/local /opt /root -xdev -type f -exec sha256sum {} + |
  sed 's/^\(.*\)  \(.*\)/content \2 \1/'
getent passwd | sed 's/^/user /'; getent group | sed 's/^/group /'
systemctl list-unit-files --no-legend --no-pager | awk '{print "unit", $1, $2}'
systemctl list-units --no-legend --no-pager --plain --state=running,failed |
  awk '$1 !~ /[.]timer$/ {print "runs", $1, $3}'
systemctl list-units --no-legend --no-pager --plain --type=timer --state=active |
  awk '{print "waits", $1}'  # "running" while what it starts runs, else "waiting"
dpkg-query -W -f 'package ${Package} ${Version} ${Status}\n'
apt-mark showhold | sed 's/^/hold /'; apt-mark showmanual | sed 's/^/manual /'
# Not those of a look of the watch. The group comes last, where it is shown whole.
ps -ww -eo user,comm,cgroup --no-headers |
  awk '$NF !~ /r1fleet-watch[.]service/ {print "process", $1, $2}'
ss -Hltn | awk '{print "listens", $4}'
ls -d /run/r1fleet* /run/ollama* 2>/dev/null | sed 's/^/run /'
"""
# Whatever is installed and removed leaves these behind: copies of account files, what apt and dpkg
# keep for themselves, the initramfs that was made anew. And who is looking, in sessions of its own.
NOISE = re.compile(
    r"(file|content) (/etc/(passwd|group|shadow|gshadow)-|/etc/ld\.so\.cache|/boot/initrd"
    r"|/var/lib/(apt|dpkg|systemd)|/usr/lib/firmware |/etc/kernel/[a-z_.]+ )"
    r"|(runs|unit) (session|user)|process \S+ (ps|awk|find|sshd.*|systemd|sleep|\(sd-pam\))$"
)
# The driver that stays, with its packages' own files, and its notes.
DRIVER = re.compile(
    r"nvidia|cuda|dkms|/usr/src/linux-headers|/usr/lib/modules/|linux-headers"
    r"|/etc/apt/sources.list.d/r1fleet-contrib[.](list|sources)|/var/lib/r1fleet(/brought)? "
)
MODELS = re.compile(r"file /var/lib/ollama(/models(/.*)?)? [df] \S+ root:root $")


class Host:
    """The host, in an inventory of its own."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.inventory = folder / "inventory.py"
        self.inventory.write_text(INVENTORY)
        words = ["token", "new", "alice", "--file", str(folder / "tokens")]
        subprocess.run([BIN / "r1fleet", *words], cwd=ROOT, check=True, capture_output=True)

    def command(self, job: str, *flags: str) -> list[str]:
        report = f"report={self.folder / 'report.json'}"
        tokens = f"gateway_tokens=file:{self.folder / 'tokens'}"
        data = ("--data", report, "--data", "expose=gateway", "--data", tokens)
        data += ("--data", "driver_hold=true")
        return [str(BIN / "pyinfra"), str(self.inventory), job, *data, *flags]

    def run(self, job: str, *flags: str) -> Run:
        path = self.folder / "report.json"
        path.unlink(missing_ok=True)
        command = self.command(job, *flags)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        report = json.loads(path.read_text()) if path.exists() else {}
        return Run(done.returncode, done.stdout + done.stderr, report)

    def snapshot(self) -> set[str]:
        lines = set(self.lab.on(HOST, SNAPSHOT).splitlines())
        assert len(lines) > 1000
        return {line for line in lines if not NOISE.match(line)}


@pytest.fixture(scope="module")
def host(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    lab.cli("reset", HOST)
    yield Host(lab, tmp_path_factory.mktemp("remove"))
    lab.cli("reset", HOST)


@pytest.fixture(scope="module")
def bare(host: Host) -> set[str]:
    return host.snapshot()


@pytest.fixture(scope="module")
def deployed(host: Host, bare: set[str]) -> Run:
    """The host once it serves, behind its gateway."""
    run = host.run("deploy.py", "-y")
    assert run.code == 0, run.output
    new = host.snapshot() - bare
    assert len(new) > 100
    assert any(one.startswith("hold nvidia") for one in new)
    return run


def lines(found: set[str]) -> str:
    return "\n".join(sorted(found))


@pytest.mark.parametrize("flags", [(), ("--data", "remove=2")])
def test_nothing_is_touched_without_the_number_of_hosts(
    host: Host, deployed: Run, flags: tuple[str, ...]
) -> None:
    run = host.run("remove.py", "-y", *flags)
    assert run.code == 2, run.output
    assert f"remove.py would take r1fleet away from 1 host: {HOST}" in run.output
    assert "nothing was touched" in run.output
    assert host.lab.api(HOST, "/api/version")["version"] == host.lab.state.engine_version


def test_dry_tells_what_goes_and_what_stays(host: Host, deployed: Run) -> None:
    before = host.snapshot()
    run = host.run("remove.py", "--limit", HOST, "--dry")
    assert run.code == 0, run.output
    row = run.row(HOST)
    assert row["verdict"] == "would change"
    steps = "\n".join(row["changes"])
    words = ["closes and removes the gateway", "stops Ollama", "user ollama", "packages aria2"]
    assert [word for word in words if word not in steps] == []
    assert row["notes"][0].startswith("the models in /var/lib/ollama/models stay, 2 names")
    assert "the driver 580.178.04 stays" in row["notes"][1]
    changed = host.snapshot() ^ before
    assert (
        lines({one for one in changed if "/r1fleet/watch/" not in one}) == ""
    )  # it looks by itself


def test_only_what_was_told_stays(host: Host, deployed: Run, bare: set[str]) -> None:
    run = host.run("remove.py", "--limit", HOST, "-y", "--data", "remove=1")
    assert run.code == 0, run.output
    after = host.snapshot()
    assert lines(bare - after) == ""
    left = after - bare
    assert lines({one for one in left if not DRIVER.search(one) and not MODELS.match(one)}) == ""
    assert any(MODELS.match(one) for one in left)
    assert [one for one in left if one.startswith("hold")] == []
    last = "journalctl -q -t r1fleet -o cat --no-pager -n 1"
    assert seen(lambda: "removed" in host.lab.on(HOST, last))
    again = host.run("remove.py", "-y", "--data", "remove=1")
    assert (again.code, again.row(HOST)["verdict"]) == (0, "as wanted")
    assert again.row(HOST)["notes"] == ["nothing of r1fleet is on it"]


def test_it_can_be_deployed_again_and_fetches_no_model_twice(host: Host, deployed: Run) -> None:
    run = host.run("deploy.py", "-y")
    assert run.code == 0, run.output
    assert "finds deepseek-r1:14b" in run.output
    assert run.row(HOST)["tag"] == deployed.row(HOST)["tag"]
    assert host.run("deploy.py", "-y").row(HOST)["verdict"] == "as wanted"


def test_one_that_is_killed_is_ended_by_the_next_with_driver_and_models(
    host: Host, deployed: Run, bare: set[str]
) -> None:
    command = host.command("remove.py", "-y", "--data", "remove=1")
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if "removes the user" in line:
            break
    process.kill()
    process.communicate(timeout=60)
    assert "/var/lib/r1fleet/state.json" in host.lab.on(HOST, "ls /var/lib/r1fleet/state.json")
    more = ("--data", "remove_models=yes", "--data", "remove_driver=yes")
    run = host.run("remove.py", "-y", "--data", "remove=1", *more)
    assert run.code == 0, run.output
    assert lines(host.snapshot() ^ bare) == ""
