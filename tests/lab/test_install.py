"""r1fleet as an installed package, with a directory that `r1fleet init` wrote: no checkout."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run

HOSTS = ("t4", "duo")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked: what an installation has of us, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


@pytest.fixture(scope="module")
def own(package: Path, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> "Laptop":
    """A laptop whose ~/.ssh knows the hosts by their names."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir(mode=0o700)
    lines = [
        f"Host {name}\n  HostName {lab.state.hosts[name].address}\n  IdentityFile {lab.state.key}\n"
        f"  UserKnownHostsFile {lab.state.known_hosts}\n"
        for name in HOSTS
    ]
    (home / ".ssh" / "config").write_text("".join(lines))
    return Laptop(package, home, lab)


class Laptop:
    def __init__(self, package: Path, home: Path, lab: Lab) -> None:
        self.home, self.fleet, self.lab = home, home / "fleet", lab
        self.environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(package)}

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=cwd or self.fleet,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def r1fleet(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "r1fleet.cli", *words, cwd=cwd)


def test_the_wheel_is_what_runs(own: Laptop) -> None:
    where = own.run(sys.executable, "-c", "import r1fleet; print(r1fleet.__file__)", cwd=own.home)
    assert where.stdout.startswith(own.environment["PYTHONPATH"]), where.stderr


def test_init_writes_a_directory_and_shows_the_plan(own: Laptop, served: Run) -> None:
    done = own.r1fleet("init", "--dir", "fleet", "root@t4", "ops@duo", cwd=own.home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tesla T4" in done.stdout
    assert "14b" in done.stdout
    assert "Next: cd fleet && pyinfra inventory.py deploy.py -y" in done.stdout


def test_its_deploy_finds_the_hosts_as_the_checkout_left_them(own: Laptop, served: Run) -> None:
    # What the lab's inventory says beyond SSH, its own servers in place of the internet.
    _, data = runpy.run_path(str(ROOT / "inventories" / "lab.py"))["lab"]
    settings = {name: value for name, value in data.items() if not name.startswith("ssh_")}
    release = own.lab.state.hosts[HOSTS[0]].release  # of both
    settings["driver_keyring_sha256"] = own.lab.state.driver_keyring_sha256[release]
    text = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    (own.fleet / "group_data" / "all.py").write_text(text)
    report = own.home / "report.json"
    done = own.run(
        str(BIN / "pyinfra"), "inventory.py", "deploy.py", "-y", "--data", f"report={report}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(report.read_text())["hosts"]
    assert {name: row["verdict"] for name, row in rows.items()} == dict.fromkeys(HOSTS, "as wanted")


def test_a_host_that_is_not_known_is_told_how_to_enter(own: Laptop) -> None:
    done = own.r1fleet("init", "--dir", "other", "root@127.0.0.1:9", cwd=own.home)
    assert done.returncode == 3
    assert "`ssh HOST true` must work without a question" in done.stderr
