"""`r1fleet status` and `r1fleet why` on inventories without any other machine."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--data", "no_gpu=cpu", "--data", "cpu_largest_tag=1.5b", "--data", "context_min=2048")


def r1fleet(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "r1fleet.cli", *words],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def inventory(folder: Path, text: str) -> Path:
    path = folder / "fleet.py"
    path.write_text(text)
    return path


def test_a_bare_host_is_drift_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = r1fleet("status", "@local", "--json", *SMALL, cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == {"hosts": 1, "drift": 1}
    row = found["hosts"]["@local"]
    assert [item["kind"] for item in row["drift"]] == ["absent"]
    assert any(step.startswith("verify: ") for step in row["pending"])
    assert list(tmp_path.iterdir()) == []


def test_group_data_limits_and_order_are_pyinfras(tmp_path: Path) -> None:
    text = 'b = ["127.0.0.9", "127.0.0.8"]\na = ["127.0.0.7"]\n'
    path = inventory(tmp_path, text)
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "a.py").write_text('tag = "13b"\n')
    done = r1fleet("status", str(path), "--limit", "a", cwd=tmp_path)
    assert done.returncode == 2
    assert "127.0.0.7: tag: is not a known tag" in done.stderr
    done = r1fleet("status", str(path), "--limit", "b", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert list(json.loads(done.stdout)["hosts"]) == ["127.0.0.9", "127.0.0.8"]


def test_hosts_that_are_dead_or_silent_hide_nobody(tmp_path: Path, silent_port: int) -> None:
    silent: dict[str, Any] = {"ssh_hostname": "127.0.0.1", "ssh_port": silent_port}
    text = f'fleet = ["@local", "127.0.0.9", ("silent", {silent!r})]\n'
    done = r1fleet("status", str(inventory(tmp_path, text)), "--json", *SMALL, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    rows = json.loads(done.stdout)["hosts"]
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "@local": "drift",
        "127.0.0.9": "unreachable",
        "silent": "unreachable",
    }
    assert all(rows[name]["reason"] for name in ("127.0.0.9", "silent"))
    assert "Traceback" not in done.stderr


def test_a_host_in_maintenance_may_be_away(tmp_path: Path) -> None:
    left = {"maintenance": {"until": "2999-01-01", "reason": "new PSU"}}
    path = inventory(tmp_path, f'fleet = [("127.0.0.9", {left!r})]\n')
    done = r1fleet("status", str(path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["hosts"]["127.0.0.9"]
    assert (row["verdict"], row["reason"]) == ("maintenance", "until 2999-01-01: new PSU")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fleet = [1 +]\n", "SyntaxError"),
        ("raise RuntimeError('no fleet today')\n", "no fleet today"),
        ("raise SystemExit('the fleet is elsewhere')\n", "the fleet is elsewhere"),
        ("fleet = []\n", "names no host"),
    ],
)
def test_an_inventory_that_cannot_be_used_is_one_line_and_code_2(
    tmp_path: Path, text: str, told: str
) -> None:
    path = inventory(tmp_path, text)
    for words in (("status", str(path)), ("why", str(path), "gpu1")):
        done = r1fleet(*words, cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("none.py",), "none.py"),
        (("@local", "--limit", "gpu1"), "named 'gpu1'"),
        (("@local", "--data", "tag"), "key=value, got 'tag'"),
        (("@local", "--data", "olama_host=x"), "did you mean 'ollama_host'"),
    ],
)
def test_wrong_arguments_are_code_2(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = r1fleet("status", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_why_without_a_history_says_so(tmp_path: Path) -> None:
    done = r1fleet("why", "@local", "@local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "@local has no history: no run has changed it, or r1fleet was removed"
        " (on the host: journalctl -t r1fleet)\n"
    )
    done = r1fleet("why", "@local", "@local", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"schema": 1, "host": "@local", "history": []}
    assert r1fleet("why", "@local", "gpu1", cwd=tmp_path).returncode == 2
    assert r1fleet("why", "127.0.0.9", "127.0.0.9", cwd=tmp_path).returncode == 3


@pytest.mark.parametrize("command", ["status", "why"])
def test_the_help_has_an_example(tmp_path: Path, command: str) -> None:
    done = r1fleet(command, "--help", cwd=tmp_path)
    assert f"Example: r1fleet {command} inventories/" in done.stdout
