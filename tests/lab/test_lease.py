"""Two operators at once, and runs that die: who has a host, and who is told what."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run

pytestmark = pytest.mark.lab

HOSTS = ("t4", "h100")
LEASE = "/var/lib/r1fleet/lease.json"
TAGS = {"ann": "7b", "bob": "1.5b"}
SLOW = ("--data", "pull_rate_limit=300K")  # so that both are at work at the same time


@pytest.fixture
def clean(lab: Lab, served: Run) -> Iterator[None]:
    """Neither operator's tag is there before; and all is as it was afterwards."""
    names = " ".join(f"deepseek-r1:{tag}" for tag in TAGS.values())
    remove = f"for m in {names}; do /opt/ollama/current/bin/ollama rm $m; done; true"
    for host in HOSTS:
        lab.on(host, remove)
    yield
    limits = [word for host in HOSTS for word in ("--limit", host)]
    run = lab.deploy(*limits, "--data", "steal=yes")
    assert run.code == 0, run.output
    for host in HOSTS:
        lab.on(host, remove)


class Operator:
    """One person's run of the main job, on some hosts."""

    def __init__(self, folder: Path, name: str, *flags: str, hosts: tuple[str, ...] = HOSTS):
        self.report = folder / f"{name}.json"
        self.report.unlink(missing_ok=True)
        limits = [word for host in hosts for word in ("--limit", host)]
        self.process = subprocess.Popen(
            [BIN / "pyinfra", "inventories/lab.py", "deploy.py", "-y", *limits]
            + ["--data", f"report={self.report}", *flags],
            cwd=ROOT,
            env=os.environ | {"LOGNAME": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, dict[str, Any], str]:
        output, _ = self.process.communicate(timeout=300)
        rows = json.loads(self.report.read_text())["hosts"] if self.report.exists() else {}
        return self.process.returncode, rows, output


def history(lab: Lab, host: str) -> list[dict[str, Any]]:
    text = lab.on(host, "cat /var/lib/r1fleet/history.jsonl")
    return [json.loads(line) for line in text.splitlines()]


def wait_for_lease(lab: Lab, host: str) -> None:
    for _ in range(100):
        if lab.on(host, f"cat {LEASE}", ok=False):
            return
        time.sleep(0.2)
    raise AssertionError(f"nobody takes a lease on {host}")


def test_of_two_operators_each_host_has_one_and_the_other_is_told(
    lab: Lab, clean: None, tmp_path: Path
) -> None:
    counts = {host: len(history(lab, host)) for host in HOSTS}
    runs = {
        name: Operator(tmp_path, name, "--data", f"tag={tag}", *SLOW) for name, tag in TAGS.items()
    }
    ends = {name: run.end() for name, run in runs.items()}
    for host in HOSTS:
        verdicts = {name: rows[host]["verdict"] for name, (_, rows, _) in ends.items()}
        assert sorted(verdicts.values()) == ["changed", "held"]
        winner = next(name for name, verdict in verdicts.items() if verdict == "changed")
        other = "bob" if winner == "ann" else "ann"
        told = ends[other][1][host]["reason"]
        assert f"held by {winner}@" in told
        assert "steal=yes" in told
        assert ends[other][0] == 1
        assert len(history(lab, host)) == counts[host] + 1
        last = history(lab, host)[-1]
        assert last["who"].startswith(f"{winner}@")
        assert last["to"]["model"] == f"deepseek-r1:{TAGS[winner]}"
        (loaded,) = lab.api(host, "/api/ps")["models"]
        assert loaded["name"] == f"deepseek-r1:{TAGS[winner]}"
        assert lab.on(host, f"ls {LEASE}", ok=False) == ""
    assert all("Traceback" not in output for _, _, output in ends.values())


def test_a_run_that_was_killed_holds_its_host_for_others_not_for_itself(
    lab: Lab, clean: None, tmp_path: Path
) -> None:
    change = ("--data", "tag=7b", *SLOW)
    killed = Operator(tmp_path, "ann", *change, hosts=("t4",))
    wait_for_lease(lab, "t4")
    killed.process.kill()
    killed.process.wait()
    code, rows, _ = Operator(tmp_path, "bob", hosts=("t4",)).end()
    assert (code, rows["t4"]["verdict"]) == (1, "held")
    assert "held by ann@" in rows["t4"]["reason"]
    code, rows, output = Operator(tmp_path, "ann", *change, hosts=("t4",)).end()
    assert code == 0, output
    assert rows["t4"]["verdict"] == "changed"
    assert history(lab, "t4")[-1]["to"]["model"] == "deepseek-r1:7b"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_kill_gives_the_host_back_and_is_remembered(
    lab: Lab, clean: None, tmp_path: Path, number: signal.Signals
) -> None:
    run = Operator(tmp_path, "ann", "--data", "tag=7b", *SLOW, hosts=("t4",))
    wait_for_lease(lab, "t4")
    run.process.send_signal(number)
    code, _, output = run.end()
    assert code == 128 + number
    assert "Traceback" not in output
    assert lab.on("t4", f"ls {LEASE}", ok=False) == ""
    assert history(lab, "t4")[-1]["reason"] == "interrupted"


def test_a_host_is_taken_over_only_when_that_is_asked_for(lab: Lab, clean: None) -> None:
    lease = {"schema": 1, "run": "cccccccc", "who": "eve@far", "since": "2026-01-01T00:00:00+00:00"}
    lease["until"] = "2999-01-01T00:00:00+00:00"
    lab.on("t4", f"printf '%s\\n' '{json.dumps(lease)}' >{LEASE}")
    run = lab.deploy("--limit", "t4", "--data", "smoke_expect=READ", dry=True)
    assert run.row("t4")["verdict"] == "held"
    run = lab.deploy("--limit", "t4", "--data", "smoke_expect=READ")
    assert (run.code, run.verdicts()) == (1, {"t4": "held"})
    assert "held by eve@far since 2026-01-01T00:00:00+00:00, until 2999" in run.row("t4")["reason"]
    assert json.loads(lab.on("t4", f"cat {LEASE}")) == lease
    run = lab.deploy("--limit", "t4", "--data", "smoke_expect=READ", "--data", "steal=yes")
    assert run.code == 0, run.output
    assert "eve@far" in run.row("t4")["warnings"][0]
    assert lab.on("t4", f"ls {LEASE}", ok=False) == ""


def test_a_newer_state_is_refused_before_any_change(lab: Lab, served: Run) -> None:
    state = "/var/lib/r1fleet/state.json"
    before = lab.on("t4", f"cat {state}")
    lab.on("t4", f'cp -p {state} /run/state.json; sed -i \'s/"schema": 1/"schema": 2/\' {state}')
    newer = lab.on("t4", f"cat {state}")
    run = lab.deploy("--limit", "t4", "--data", "tag=7b")
    assert run.code == 1
    assert "update r1fleet" in run.row("t4")["reason"]
    assert lab.on("t4", f"cat {state}") == newer != before
    lab.on("t4", f"mv /run/state.json {state}")
    assert lab.deploy("--limit", "t4").verdicts() == {"t4": "as wanted"}
