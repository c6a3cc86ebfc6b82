"""`r1fleet status` on booted hosts: drift by hand is shown by its name, and nothing is written."""

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run
from tests.lab.test_main_job import UNTOUCHED

pytestmark = pytest.mark.lab

Broken = Callable[[str, str, str], None]

MANIFESTS = "/var/lib/ollama/models/manifests/registry.ollama.ai/library/deepseek-r1"
GENERATE = "127.0.0.1:11434/api/generate"

# What is done to which host, the kind and a part of the words that status must show. A run mends
# all of them at once; no two of a host hide each other.
BY_HAND = [
    ("t4", "echo '# mine' >>/etc/systemd/system/ollama.service", "unit file", "ollama.service"),
    ("t4", "systemctl disable -q r1fleet-preload", "unit", "r1fleet-preload.service is disabled"),
    ("t4", "rm -f /usr/local/lib/r1fleet/preload", "file", "/usr/local/lib/r1fleet/preload"),
    ("rtx3090", "echo 'OLLAMA_DEBUG=1' >>/etc/r1fleet/ollama.env", "environment file", "env"),
    ("rtx3090", "systemctl disable -q ollama", "unit", "ollama.service is disabled"),
    ("duo", "systemctl stop ollama", "unit", "ollama.service is stopped"),
    ("duo", "truncate -s +3 $(ls -S /var/lib/ollama/models/blobs/* | head -n 1)", "blob", "bytes"),
    (
        "h100",
        "cp -a /opt/ollama/current/ /opt/ollama/0.30.0-mine"
        " && ln -sfn 0.30.0-mine /opt/ollama/current",
        "engine",
        "Ollama 0.30.0-mine is live",
    ),
    ("h100", "echo '{' >/var/lib/r1fleet/state.json", "state", "state.json is damaged"),
    ("old", f"echo ' ' >>{MANIFESTS}/8b", "digest", "deepseek-r1:8b is"),
    (
        "rtx3090",
        f"""curl -sf {GENERATE} -d '{{"model": "deepseek-r1:32b", "keep_alive": 0}}'""",
        "memory",
        "deepseek-r1:32b is not loaded",
    ),
    ("cpu", f"rm {MANIFESTS}/7b", "model", "deepseek-r1:7b is not in"),
]


def status(
    *words: str, inventory: Path = Path("inventories/lab.py")
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "r1fleet", "status", inventory, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def hosts(
    *words: str, code: int, inventory: Path = Path("inventories/lab.py")
) -> dict[str, dict[str, Any]]:
    done = status("--json", *words, inventory=inventory)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["hosts"]
    return found


def told(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["kind"], item["what"]) for item in row["drift"]]


def test_a_served_fleet_is_as_wanted_and_nothing_is_written(lab: Lab, served: Run) -> None:
    lab.deploy()  # what other tests have left to do
    for host in lab.hosts:
        lab.on(host, "touch /run/r1test-mark; sleep 0.1")
    before = sorted(path.name for path in ROOT.iterdir())
    found = hosts(code=0)
    assert {name: row["verdict"] for name, row in found.items()} == dict.fromkeys(
        lab.hosts, "as wanted"
    )
    for host in lab.hosts:
        assert lab.on(host, UNTOUCHED) == ""
        (loaded,) = lab.api(host, "/api/ps")["models"]
        assert found[host]["context"] == loaded["context_length"]
        assert found[host]["digest"] == f"sha256:{loaded['digest']}"
        assert f"deepseek-r1:{found[host]['tag']}" == loaded["name"]
    assert sorted(path.name for path in ROOT.iterdir()) == before


def test_drift_by_hand_is_shown_and_mended_by_a_run(lab: Lab, served: Run) -> None:
    for host, script, _, _ in BY_HAND:
        lab.on(host, script)
    found = hosts(code=4)
    for host, script, kind, words in BY_HAND:
        assert any(k == kind and words in what for k, what in told(found[host])), (
            script,
            told(found[host]),
        )
    table = status().stdout
    for host, _, kind, words in BY_HAND:
        assert any(
            line.startswith(f"{host}: drift, {kind}: ") and words in line
            for line in table.splitlines()
        )
    run = lab.deploy()
    assert run.code == 0, run.output
    lab.on("h100", "rm -rf /opt/ollama/0.30.0-mine")
    assert {row["verdict"] for row in hosts(code=0).values()} == {"as wanted"}


def test_what_a_run_leaves_is_shown_too(lab: Lab, served: Run, broken: Broken) -> None:
    path = "/etc/systemd/system/ollama.service.d/mine.conf"
    broken(
        "t4",
        f"mkdir -p {path.rpartition('/')[0]}; echo '[Service]' >{path}; systemctl daemon-reload",
        f"rm {path}; systemctl daemon-reload",
    )
    (row,) = hosts("--limit", "t4", code=4).values()
    assert told(row) == [("drop-in", f"{path} is not r1fleet's, a run leaves it")]


def test_another_runs_lease_is_shown_with_its_holder(lab: Lab, served: Run, broken: Broken) -> None:
    lease = {
        "schema": 1,
        "run": "0123abcd",
        "who": "ops@elsewhere",
        "since": "2026-01-01T00:00:00+00:00",
        "until": "2099-01-01T00:00:00+00:00",
    }
    path = "/var/lib/r1fleet/lease.json"
    broken("t4", f"echo '{json.dumps(lease)}' >{path}", f"rm -f {path}")
    found = hosts("--limit", "t4", "--limit", "cpu", code=5)
    assert found["t4"]["lease"]["who"] == "ops@elsewhere"
    assert found["cpu"]["lease"] is None


def test_dead_and_hanging_hosts_hide_nobody(lab: Lab, served: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        inventory = tmp_path / "lab.py"
        inventory.write_text(
            f"""
import runpy
_hosts, _data = runpy.run_path({str(ROOT / "inventories" / "lab.py")!r})["lab"]
_port = {silent.getsockname()[1]}
lab = (
    [
        *_hosts,
        ("hangs", {{"ssh_hostname": "127.0.0.1", "ssh_port": _port}}),
        ("dead", {{"ssh_hostname": "192.0.2.1"}}),
    ],
    _data,
)
"""
        )
        found = hosts(inventory=inventory, code=3)
    assert found["hangs"]["verdict"] == found["dead"]["verdict"] == "unreachable"
    assert found["hangs"]["reason"]
    assert {found[host]["verdict"] for host in lab.hosts} == {"as wanted"}


def test_why_shows_the_history_and_its_damaged_lines(lab: Lab, served: Run, broken: Broken) -> None:
    entry = {
        "schema": 1,
        "at": "2026-01-01T00:00:00+00:00",
        "run": "0123abcd",
        "who": "ops@elsewhere",
        "commit": None,
        "dirty": False,
        "from": {"model": "deepseek-r1:70b"},
        "to": {"model": "deepseek-r1:32b"},
        "changes": ["model deepseek-r1:32b"],
        "verdict": "changed",
        "reason": None,
        "tokens_per_s": 12.5,
    }
    path = "/var/lib/r1fleet/history.jsonl"
    broken(
        "duo",  # a user with sudo: the file may be root's alone
        f"cp -a {path} {path}.kept; echo '{json.dumps(entry)}' >{path};"
        f" printf 'cut \\377 off\\n' >>{path}; chmod 600 {path}",
        f"rm {path}; mv {path}.kept {path} || :",
    )
    done = subprocess.run(
        [BIN / "r1fleet", "why", "inventories/lab.py", "duo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "line 2: it is damaged: cut  off",
        "2026-01-01T00:00:00+00:00  changed, 12.5 tokens/s  by ops@elsewhere, no commit,"
        " run 0123abcd",
        "    model deepseek-r1:70b -> deepseek-r1:32b",
        "    changed: model deepseek-r1:32b",
    ]
