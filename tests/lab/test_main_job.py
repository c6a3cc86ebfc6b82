"""From bare Debian to a proven DeepSeek-R1 on every host, and a second run that changes nothing."""

import json
import subprocess

import pytest

from tests.lab.conftest import Lab, Run

pytestmark = pytest.mark.lab

TAGS = {"t4": "14b", "rtx3090": "32b", "duo": "70b", "h100": "70b", "old": "8b", "cpu": "7b"}
GPU_HOSTS = [name for name in TAGS if name != "cpu"]
FLAVOURS = {"t4": "open", "rtx3090": "open", "duo": "open", "h100": "open", "old": "proprietary"}

UNTOUCHED = (
    "find / -xdev -newer /run/r1test-mark -type f"
    " -not -path '/proc/*' -not -path '/sys/*' -not -path '/dev/*' -not -path '/run/*'"
    " -not -path '/tmp/*' -not -path '/var/log/*' -not -path '/var/lib/systemd/*'"
    " -not -path '/var/lib/r1fleet/watch/*'"  # the host's own timer, not the run
)


def test_every_host_got_the_tag_that_fits_it(served: Run) -> None:
    assert {row["host"]: row["tag"] for row in served.report["hosts"].values()} == TAGS
    assert set(served.verdicts().values()) == {"changed"}


@pytest.mark.parametrize("host", TAGS)
def test_the_model_thinks_and_answers(lab: Lab, served: Run, host: str) -> None:
    model = f"deepseek-r1:{TAGS[host]}"
    question = [{"role": "user", "content": "Reply with one word"}]
    answer = lab.api(host, "/api/chat", {"model": model, "messages": question, "stream": False})
    assert "READY" in answer["message"]["content"]
    assert answer["message"]["thinking"].strip()


@pytest.mark.parametrize("host", GPU_HOSTS)
def test_the_model_sits_wholly_on_the_gpus(lab: Lab, served: Run, host: str) -> None:
    (loaded,) = lab.api(host, "/api/ps")["models"]
    assert loaded["size_vram"] == loaded["size"] > 1e9
    assert loaded["context_length"] == served.row(host)["context"] >= 16384
    assert lab.on(host, "nvidia-smi --query-compute-apps=pid --format=csv,noheader").split()


def test_the_cpu_host_says_so(lab: Lab, served: Run) -> None:
    (loaded,) = lab.api("cpu", "/api/ps")["models"]
    assert loaded["size_vram"] == 0
    assert served.row("cpu")["placement"] == "cpu"


@pytest.mark.parametrize("host", GPU_HOSTS)
def test_the_driver_lists_every_gpu_of_the_bus(lab: Lab, served: Run, host: str) -> None:
    listed = lab.on(host, "nvidia-smi -L").strip().splitlines()
    assert len(listed) == len(lab.state.hosts[host].gpus)
    version = lab.on(host, "cat /proc/driver/nvidia/version")
    assert ("Open Kernel Module" in version) == (FLAVOURS[host] == "open")


def test_only_hosts_with_another_driver_on_the_card_were_rebooted(served: Run) -> None:
    rebooted = {name for name in TAGS if "rebooted" in served.row(name)["changes"]}
    assert rebooted == {"rtx3090", "old"}


def test_the_environment_is_what_was_planned(lab: Lab, served: Run) -> None:
    for host in TAGS:
        pid = lab.on(host, "systemctl show -p MainPID --value ollama").strip()
        names = dict(
            line.split("=", 1)
            for line in lab.on(host, f"tr '\\0' '\\n' </proc/{pid}/environ").splitlines()
            if "=" in line
        )
        assert names["OLLAMA_CONTEXT_LENGTH"] == str(served.row(host)["context"])
        assert names["OLLAMA_NUM_PARALLEL"] == "1"
        assert names["OLLAMA_KV_CACHE_TYPE"] in ("f16", "q8_0")
        assert ("OLLAMA_SCHED_SPREAD" in names) == (host == "duo")


def test_a_second_run_changes_nothing(lab: Lab, served: Run) -> None:
    units = "systemctl show -p ActiveEnterTimestampMonotonic,InvocationID ollama.service"
    before = {host: lab.on(host, units) for host in lab.hosts}
    for host in lab.hosts:
        lab.on(host, "touch /run/r1test-mark; dpkg-query -W >/run/r1test-packages; sleep 0.1")
    run = lab.deploy()
    assert run.code == 0, run.output
    assert set(run.verdicts().values()) == {"as wanted"}
    assert all(row["changes"] == [] and row["tokens_per_s"] for row in run.report["hosts"].values())
    for host in lab.hosts:
        assert lab.on(host, units) == before[host]
        assert lab.on(host, UNTOUCHED) == ""
        assert lab.on(host, "dpkg-query -W | cmp - /run/r1test-packages") == ""


def test_pyinfra_itself_reports_no_changes(lab: Lab, served: Run) -> None:
    process = lab.start_deploy("-y", "--json", stderr=subprocess.DEVNULL)
    output, _ = process.communicate(timeout=600)
    for operation in json.loads(output)["results"]["operations"]:
        assert operation["success"] == []
        assert set(operation["no_change"]) == set(lab.hosts)


def test_a_dry_run_on_a_served_fleet_plans_nothing(lab: Lab, served: Run) -> None:
    run = lab.deploy(dry=True)
    assert run.code == 0, run.output
    assert all(row["changes"] == [] for row in run.report["hosts"].values())
    assert run.report["dry_run"] is True
