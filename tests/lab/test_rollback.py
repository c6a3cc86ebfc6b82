"""A change that goes wrong leaves the host with what it served before, proven again."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import services
from tests.lab.conftest import Lab, Run, seen
from tests.lab.steady import Steady
from tests.lab.test_alias import ALIAS, HOST, OTHER_TAG, answer, digests
from tests.lab.variants import broken_engine, published

pytestmark = pytest.mark.lab

SERVED = (
    "readlink /opt/ollama/current; sha256sum /etc/r1fleet/* /etc/systemd/system/ollama.service"
    " /etc/systemd/system/ollama.service.d/*"
    " /var/lib/ollama/models/manifests/registry.ollama.ai/library/deepseek-r1/fleet"
)


@pytest.fixture
def engine_flags(lab: Lab, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    yield broken_engine(tmp_path)
    shutil.rmtree(services.www_dir() / "ollama" / "v0.32.99")
    lab.on(HOST, "rm -rf /opt/ollama/0.32.99-*")


def as_wanted(lab: Lab) -> None:
    run = lab.deploy("--limit", HOST)
    assert run.code == 0, run.output
    assert run.verdicts()[HOST] == "as wanted"


def test_an_engine_that_does_not_start(
    lab: Lab, served: Run, engine_flags: tuple[str, ...]
) -> None:
    before = lab.on(HOST, SERVED)
    run = lab.deploy("--limit", HOST, *engine_flags)
    assert run.code == 1
    assert run.verdicts()[HOST] == "rolled back", run.output
    assert "it ended 4 times" in run.row(HOST)["reason"]
    assert run.row(HOST)["residency"] == 1.0
    assert "Traceback" not in run.output
    assert lab.on(HOST, SERVED) == before
    assert "READY" in answer(lab)
    as_wanted(lab)


def test_a_tag_that_moved_to_a_wrong_answer_and_a_run_that_was_killed(
    lab: Lab, served: Run, tmp_path: Path
) -> None:
    before, files = digests(lab), lab.on(HOST, SERVED)
    with published(lab, tmp_path, "14b", answer="WRONG") as flags:
        process = lab.start_deploy("-y", "--limit", HOST, *flags)
        assert process.stdout
        for line in process.stdout:
            if "loads deepseek-r1:14b" in line:  # the tag is the new one by now
                process.kill()
        process.wait(timeout=60)
        assert "READY" in answer(lab)
        assert digests(lab)["deepseek-r1:14b"] != before["deepseek-r1:14b"]
        run = lab.deploy("--limit", HOST, *flags)
    assert run.code == 1
    assert run.verdicts()[HOST] == "rolled back", run.output
    assert "'WRONG'" in run.row(HOST)["reason"]
    assert "READY" in answer(lab)
    assert digests(lab) == before  # the tag itself is the former one again
    assert lab.on(HOST, SERVED) == files
    (loaded,) = lab.api(HOST, "/api/ps")["models"]
    assert loaded["digest"] == before[ALIAS]
    as_wanted(lab)


def test_back_by_hand(lab: Lab, served: Run, tmp_path: Path) -> None:
    before, files = digests(lab), lab.on(HOST, SERVED)
    with published(lab, tmp_path, OTHER_TAG) as flags:
        run = lab.deploy("--limit", HOST, "--data", f"tag={OTHER_TAG}", *flags)
    assert run.code == 0, run.output
    assert digests(lab)[ALIAS] != before[ALIAS]
    process = lab.start_deploy("-y", "--limit", HOST, job="rollback.py")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    report = json.loads((lab.folder / "report.json").read_text())
    assert report["hosts"][HOST]["verdict"] == "rolled back"
    assert lab.on(HOST, SERVED) == files
    assert digests(lab)[ALIAS] == before[ALIAS]
    body = json.dumps({"model": f"deepseek-r1:{OTHER_TAG}"})
    lab.on(HOST, f"curl -sS -X DELETE -d '{body}' 127.0.0.1:11434/api/delete")
    as_wanted(lab)


def test_a_request_in_flight_is_finished_before_a_restart(lab: Lab, served: Run) -> None:
    unit = "systemctl show -p InvocationID --value ollama"
    before = lab.on(HOST, unit)
    flags = ("--data", "ollama_max_queue=500", "--data", "drain_timeout_s=600")
    waits = "grep -al 'R1_LIMIT_[S]=' /proc/[0-9]*/cmdline"  # the run's command that waits
    with Steady(lab, HOST, ALIAS) as clients:
        process = lab.start_deploy("-y", "--limit", HOST, *flags)
        seen(lambda: process.poll() is not None or lab.on(HOST, waits, ok=False), limit_s=600)
        time.sleep(3)  # a wait is told from two seconds on
        clients.let_go()
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert lab.on(HOST, unit) != before
    assert {status for status, _ in clients.answers} == {"200"}
    assert all(json.loads(text)["done"] for _, text in clients.answers)
    assert "for running requests" in output
    assert lab.deploy("--limit", HOST).code == 0
