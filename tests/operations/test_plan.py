"""`r1fleet plan` on inventories without any other machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r1fleet.plan_command import exit_code

ROOT = Path(__file__).parents[2]
SERVED = ("--data", "no_gpu=cpu", "--data", "cpu_largest_tag=1.5b", "--data", "context_min=2048")


def plan(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "r1fleet.cli", "plan", *words],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )


def hosts(*words: str, cwd: Path = ROOT) -> dict[str, dict[str, Any]]:
    done = plan("--json", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["hosts"]
    return found


def test_group_data_and_limits_are_read_as_pyinfra_does(tmp_path: Path) -> None:
    (tmp_path / "fleet.py").write_text('cpus = ["@local"]\nothers = ["127.0.0.9"]\n')
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "cpus.py").write_text('no_gpu = "cpu"\ncontext_min = 2048\n')
    found = hosts("fleet.py", "--limit", "cpus", "--data", "cpu_largest_tag=1.5b", cwd=tmp_path)
    assert list(found) == ["@local"]
    row = found["@local"]
    assert row["chosen"]["tag"] == "1.5b"
    assert row["download_bytes"] == row["chosen"]["download_bytes"] > 0
    assert {seen["tag"] for seen in row["candidates"]} >= {"70b", "14b", "1.5b"}
    assert all(seen["reason"] for seen in row["candidates"])


def test_a_host_that_cannot_be_reached_is_code_3_and_the_others_are_planned() -> None:
    done = plan("@local,127.0.0.9", *SERVED)
    assert done.returncode == 3, done.stderr
    assert "chosen: 1.5b" in done.stdout
    assert "127.0.0.9: unreachable" in done.stdout
    assert plan("127.0.0.9").returncode == 3


def test_a_host_that_cannot_be_served_is_code_1_with_the_reason() -> None:
    done = plan("@local", "--data", "tag=671b", "-v")
    assert done.returncode == 1, done.stderr
    assert "refused: " in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("inventories/none.py",), "none.py"),
        (("@local", "--data", "tag=13b"), "tag: is not a known tag, got '13b'; nearest: "),
        (("@local", "--data", "olama_host=x"), "did you mean 'ollama_host'"),
    ],
)
def test_wrong_settings_and_arguments_are_code_2(words: tuple[str, ...], told: str) -> None:
    done = plan(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_exit_code_tells_the_worst() -> None:
    assert exit_code(["as wanted", "would change"]) == 0
    assert exit_code(["as wanted", "unreachable"]) == 3
    assert exit_code(["refused", "unreachable"]) == 1
    assert exit_code(["failed", "held"]) == 1
    assert exit_code(["held", "unreachable"]) == 5
