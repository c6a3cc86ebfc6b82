"""Tests on booted hosts: they run the main job as a user does and then look at the hosts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab.state import LabState

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# On a host: until the engine answers, for a minute at most.
READY = "curl -fsS --retry 60 --retry-delay 1 --retry-connrefused -o /dev/null 127.0.0.1:11434"

T = TypeVar("T")


def seen(look: Callable[[], T], enough: Callable[[T], object] = bool, limit_s: float = 30) -> T:
    """What a look shows, as soon as that is enough; what the last one shows, when time is up."""
    deadline = time.monotonic() + limit_s
    while not enough(found := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Run:
    """A finished run of pyinfra: exit code, output of both streams, the JSON report."""

    code: int
    output: str
    report: dict[str, Any]

    def row(self, host: str) -> dict[str, Any]:
        return self.report["hosts"][host]

    def verdicts(self) -> dict[str, str]:
        return {name: row["verdict"] for name, row in self.report["hosts"].items()}


class Lab:
    """The running lab: commands on its hosts, and the main job on it."""

    def __init__(self, state: LabState, folder: Path) -> None:
        self.state = state
        self.folder = folder
        self.hosts = [name for name, host in state.hosts.items() if host.listed]

    def cli(self, *words: str) -> None:
        subprocess.run([BIN / "r1fleet", "lab", *words], cwd=ROOT, check=True)

    def fault(self, host: str, name: str, switch: str) -> None:
        self.cli("fault", name, switch, "--host", host)

    def ssh(self, host: str) -> list[str]:
        """The words of a command that enters a host as root; the script comes after them."""
        return (
            ["ssh", "-F", "none", "-i", str(self.state.key), "-o", "IdentitiesOnly=yes"]
            + ["-o", f"UserKnownHostsFile={self.state.known_hosts}"]
            + ["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"]
            + [f"root@{self.state.hosts[host].address}"]
        )

    def on(self, host: str, script: str, *, ok: bool = True) -> str:
        """The standard output of a script on a host, run as root."""
        done = subprocess.run(
            [*self.ssh(host), script], capture_output=True, text=True, check=False
        )
        assert not ok or done.returncode == 0, f"{host}: {script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def api(self, host: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = f"-d '{json.dumps(body)}'" if body else ""
        return json.loads(self.on(host, f"curl -sS -m 300 127.0.0.1:11434{path} {data}"))

    def start_deploy(
        self, *flags: str, stderr: int = subprocess.STDOUT, job: str = "deploy.py"
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "pyinfra", "inventories/lab.py", job]
            + ["--data", f"report={self.folder / 'report.json'}", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def deploy(self, *flags: str, dry: bool = False) -> Run:
        path = self.folder / "report.json"
        path.unlink(missing_ok=True)
        process = self.start_deploy(*(("--dry",) if dry else ("-y",)), *flags)
        output, _ = process.communicate(timeout=1800)
        report = json.loads(path.read_text()) if path.exists() else {}
        return Run(process.returncode, output, report)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    state = LabState.load()
    assert state is not None, "the lab is not running: make lab-up"
    return Lab(state, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def served(lab: Lab) -> Run:
    """The first run on bare hosts. Every other test may rely on a fleet that serves."""
    run = lab.deploy()
    assert run.code == 0, run.output
    return run


@pytest.fixture
def broken(lab: Lab) -> Iterator[Callable[[str, str, str], None]]:
    """broken(host, break_script, mend_script): breaks a host, mends it after the test."""
    mends: list[tuple[str, str]] = []

    def do(host: str, script: str, mend: str) -> None:
        mends.append((host, mend))
        lab.on(host, script)

    yield do
    for host, mend in mends:
        lab.on(host, mend)


@pytest.fixture
def fault(lab: Lab) -> Iterator[Callable[[str, str], None]]:
    """fault(host, name): sets a fault of lab/faults.yaml, takes it back after the test."""
    there: list[tuple[str, str]] = []

    def do(host: str, name: str) -> None:
        there.append((host, name))
        lab.fault(host, name, "on")

    yield do
    for host, name in there:
        lab.fault(host, name, "off")
