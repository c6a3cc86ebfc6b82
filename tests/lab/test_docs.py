"""The commands of README.md and docs/ as they stand there: only hosts and inventories have names
of the lab. tests/pages_table.py says which of them are run here."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run
from tests.pages import tokens
from tests.pages_table import given_to

pytestmark = pytest.mark.lab


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory as a user has it, with the lab's inventory under the name of the pages."""
    shutil.copy(ROOT / "inventories" / "lab.py", tmp_path / "inventory.py")
    for name in ("deploy.py", "rollback.py", "config.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | variables
    return subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def here(text: str, lab: Lab) -> str:
    """A command with the lab's inventory and first host in place of those of the pages."""
    text = re.sub(r"\bgpu1(\.example\.org)? ", f"{lab.hosts[0]} ", f"{text} ").strip()
    text = text.replace("inventories/prod.py", "inventory.py")
    return text.replace("--registry-url URL", f"--registry-url {lab.state.registry_url}")


def test_commands_that_change_nothing(lab: Lab, served: Run, folder: Path) -> None:
    commands = given_to("tests/lab/test_docs.py::test_commands_that_change_nothing")
    todo = {here(command.text, lab): command for command in commands}
    assert len(todo) > 12
    # A report comes after its run, and a lock is a setting for what comes after it.
    for text, command in sorted(todo.items(), key=lambda one: (" lock " in one[0], one[0])):
        done = run(folder, text)
        assert done.returncode == 0, f"{command.place}: {text}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert "@@end" in (folder / "gpu1.txt").read_text()
    assert "deepseek-r1" in (folder / "models.lock.yaml").read_text()


def test_a_way_back_to_a_day(lab: Lab, served: Run, folder: Path) -> None:
    """The days of the page are before the lab's hosts: that is told, and nothing is changed."""
    for command in given_to("tests/lab/test_docs.py::test_a_way_back_to_a_day"):
        done = run(folder, here(command.text, lab))
        assert done.returncode == 1
        assert "no such state is kept" in done.stdout + done.stderr, command.text


def test_the_labs_own_commands(lab: Lab, served: Run) -> None:
    for command in given_to("tests/lab/test_docs.py::test_the_labs_own_commands"):
        done = run(ROOT, command.text.replace(" t4 ", f" {lab.hosts[0]} "))
        assert done.returncode == 0, f"{command.text}\n{done.stdout}{done.stderr}"
        assert "nvidia-smi" not in command.text or "NVIDIA-SMI" in done.stdout
    lab.cli("wan", "off")
    assert lab.on("pc1", "ls -d /opt/ollama 2>/dev/null", ok=False) == ""


def test_how_to_check_that_nobody_reaches_the_engine(lab: Lab, served: Run, folder: Path) -> None:
    host = lab.hosts[0]
    todo = given_to("tests/lab/test_docs.py::test_how_to_check_that_nobody_reaches_the_engine")
    for command in todo:
        text = command.text.replace("HOST", lab.state.hosts[host].address)
        if text.startswith("curl"):
            assert run(folder, text).returncode in (7, 28), text  # refused, or no answer
        elif text.startswith("ss"):
            lines = lab.on(host, text).splitlines()
            assert lines
            assert all("127.0.0.1:11434" in line for line in lines)
        else:
            found = re.search(r"exposure level for ollama.service: ([0-9.]+)", lab.on(host, text))
            assert found
            assert float(found[1]) <= 1.5


def test_a_ci_enters_with_the_key_and_the_known_hosts_of_the_page(
    lab: Lab, served: Run, folder: Path
) -> None:
    host = lab.hosts[0]
    (block,) = (
        token.content
        for token in tokens(ROOT / "docs" / "ci.md")
        if token.type == "fence" and token.info == "python"
    )
    address = f'"{host}", {{"ssh_hostname": "{lab.state.hosts[host].address}", '
    (folder / "inventory.py").write_text(block.replace('"gpu1.example.org", {', address))
    shutil.copy(lab.state.known_hosts, folder / "known_hosts")
    key = {"FLEET_SSH_KEY": str(lab.state.key)}
    found = json.loads(run(folder, "r1fleet status inventory.py --json", **key).stdout)
    assert found["hosts"][host]["verdict"] in ("as wanted", "drift")  # entered, and looked at
    assert found["hosts"][host]["tag"] == served.row(host)["tag"]
    (folder / "known_hosts").write_text("")
    done = run(folder, "r1fleet status inventory.py", **key)
    assert done.returncode == 3
    assert "No host key for" in done.stdout
