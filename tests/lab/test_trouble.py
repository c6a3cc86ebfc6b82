"""What goes wrong on a real night: each ends in one line per host, and the next run converges."""

import signal
import time
from collections.abc import Callable

import pytest

from tests.lab.conftest import Lab, Run, seen

pytestmark = pytest.mark.lab

# Its watch would mend what these tests break; a run starts it again.
UNWATCHED = "systemctl stop r1fleet-watch.timer r1fleet-watch.service"
INVOCATION = "systemctl show -p InvocationID --value ollama"
WAIT = "/usr/local/lib/r1fleet/wait-for-gpus"
Broken = Callable[[str, str, str], None]


def lines_about(run: Run, host: str) -> list[str]:
    return [line for line in run.output.splitlines() if f"[{host}]" in line]


def converged(lab: Lab) -> None:
    run = lab.deploy()
    assert run.code == 0, run.output
    assert set(run.verdicts().values()) <= {"changed", "as wanted"}


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("ollama_num_parallel=many", "ollama_num_parallel"),
        ("olama_host=127.0.0.1", "did you mean 'ollama_host'"),
        ("tag=13b", "14b"),
        ("ollama_models=relative/path", "ollama_models"),
    ],
)
def test_a_wrong_setting_touches_nothing(lab: Lab, served: Run, flag: str, told: str) -> None:
    for host in lab.hosts:
        lab.on(host, "touch /run/r1test-mark")
    run = lab.deploy("--data", flag)
    assert run.code == 2
    assert told in run.output
    assert "Traceback" not in run.output
    for host in lab.hosts:
        assert (
            lab.on(
                host,
                "find /etc /opt /var/lib -newer /run/r1test-mark -type f"
                " -not -path '/var/lib/systemd/*' -not -path '/var/lib/r1fleet/watch/*'",
            )
            == ""
        )


def test_a_model_directory_that_is_a_file(lab: Lab, served: Run, broken: Broken) -> None:
    broken("t4", "mkdir -p /srv; echo mine >/srv/models", "rm -f /srv/models")
    run = lab.deploy("--limit", "t4", "--data", "ollama_models=/srv/models")
    assert run.code == 1
    assert "regular file" in run.row("t4")["reason"]
    assert "Traceback" not in run.output
    assert lab.on("t4", "cat /srv/models") == "mine\n"
    converged(lab)


def test_a_host_that_is_down_is_named_and_the_others_are_done(lab: Lab, served: Run) -> None:
    lab.cli("stop", "duo")
    try:
        run = lab.deploy()
    finally:
        lab.cli("start", "duo")
    assert run.code == 1
    assert run.verdicts().pop("duo") == "unreachable"
    assert all(verdict == "as wanted" for host, verdict in run.verdicts().items() if host != "duo")
    assert "Traceback" not in run.output
    converged(lab)


def test_a_power_cut_host_answers_from_the_gpu_by_itself(lab: Lab, served: Run) -> None:
    lab.cli("cycle", "h100")
    model = f"deepseek-r1:{served.row('h100')['tag']}"
    for _ in range(60):
        if "running" in lab.on("h100", "systemctl is-active ollama && echo running", ok=False):
            break
        time.sleep(1)
    question = [{"role": "user", "content": "Reply with one word"}]
    answer = lab.api("h100", "/api/chat", {"model": model, "messages": question, "stream": False})
    assert "READY" in answer["message"]["content"]
    (loaded,) = lab.api("h100", "/api/ps")["models"]
    assert loaded["size_vram"] == loaded["size"]
    converged(lab)


def test_a_restart_by_hand_loads_the_model_again(lab: Lab, served: Run) -> None:
    lab.on("t4", "systemctl kill -s KILL ollama.service")
    for _ in range(60):
        time.sleep(1)
        names = [row["name"] for row in _ps(lab, "t4")]
        if names:
            break
    assert names == [f"deepseek-r1:{served.row('t4')['tag']}"]
    converged(lab)


def _ps(lab: Lab, host: str) -> list[dict[str, str]]:
    try:
        return lab.api(host, "/api/ps")["models"]
    except (ValueError, AssertionError):
        return []


def test_a_model_on_the_cpu_fails_whatever_is_remembered(lab: Lab, served: Run) -> None:
    """The driver goes away under a running engine: HTTP stays 200, only residency tells."""
    lab.on("rtx3090", UNWATCHED)
    lab.on(
        "rtx3090",
        "sed -i /ExecStartPre/d /etc/systemd/system/ollama.service;"
        " systemctl daemon-reload; mv /dev/nvidia-uvm /dev/hidden; systemctl restart ollama;"
        " systemctl start r1fleet-preload; mv /dev/hidden /dev/nvidia-uvm",
    )
    (loaded,) = lab.api("rtx3090", "/api/ps")["models"]
    assert loaded["size_vram"] == 0
    converged(lab)  # the changed unit is put right, which restarts the engine
    lab.on("rtx3090", UNWATCHED)
    before = lab.on(
        "rtx3090",
        f"{INVOCATION}; mv /dev/nvidia-uvm /dev/hidden; mount --bind /bin/true {WAIT};"
        " systemctl kill -s KILL ollama",
    )
    try:
        seen(
            lambda: lab.on("rtx3090", INVOCATION) != before and _ps(lab, "rtx3090"),
            limit_s=120,
        )
        lab.on("rtx3090", "systemctl start r1fleet-preload")
    finally:
        lab.on("rtx3090", f"umount {WAIT}; mv /dev/hidden /dev/nvidia-uvm")
    (loaded,) = lab.api("rtx3090", "/api/ps")["models"]
    assert loaded["size_vram"] == 0
    run = lab.deploy("--limit", "rtx3090")
    assert run.code == 1
    assert "CPU" in run.row("rtx3090")["reason"]
    lab.on("rtx3090", "systemctl restart ollama")
    converged(lab)


def test_a_wrong_checksum_leaves_the_engine_as_it_was(lab: Lab, served: Run) -> None:
    before = lab.on("t4", "readlink /opt/ollama/current; systemctl show -p InvocationID ollama")
    run = lab.deploy("--limit", "t4", "--data", f"engine_sha256={'ab' * 32}")
    assert run.code == 1
    assert "checksum" in run.row("t4")["reason"]
    assert lab.on("t4", "readlink /opt/ollama/current; systemctl show -p InvocationID ollama") == (
        before
    )
    assert lab.on("t4", "ls -A /opt/ollama").split() == lab.on("t4", "ls /opt/ollama").split()
    converged(lab)


def test_a_registry_that_answers_500(lab: Lab, served: Run) -> None:
    lab.cli("fault", "registry-500", "on")
    try:
        run = lab.deploy("--limit", "t4", "--data", "tag=7b")
    finally:
        lab.cli("fault", "registry-500", "off")
    assert run.code == 1
    assert "500" in run.row("t4")["reason"]
    assert len(_ps(lab, "t4")) == 1
    converged(lab)


def test_a_full_disk_is_refused_before_the_first_byte(
    lab: Lab, served: Run, broken: Broken
) -> None:
    broken(
        "old",
        "mkdir -p /srv/small; mount -t tmpfs -o size=1m tmpfs /srv/small",
        "umount /srv/small; rmdir /srv/small",
    )
    run = lab.deploy("--limit", "old", "--data", "ollama_models=/srv/small/models")
    assert run.code == 1
    assert "free" in run.row("old")["reason"]
    assert lab.on("old", "find /srv/small -type f") == ""
    converged(lab)


def test_a_full_disk_under_the_engine(lab: Lab, served: Run, broken: Broken) -> None:
    broken("old", "mount -t tmpfs -o size=20m tmpfs /opt", "umount /opt; systemctl restart ollama")
    run = lab.deploy("--limit", "old")
    assert run.code == 1
    assert "No space left on device" in run.row("old")["reason"]
    assert lab.on("old", "ls -A /opt/ollama") == ""


def test_a_forced_tag_and_back(lab: Lab, served: Run) -> None:
    run = lab.deploy("--limit", "t4", "--data", "tag=7b")
    assert run.code == 0, run.output
    assert [row["name"] for row in _ps(lab, "t4")] == ["deepseek-r1:7b"]
    converged(lab)
    assert [row["name"] for row in _ps(lab, "t4")] == ["deepseek-r1:14b"]


def test_pull_by_the_engines_own_api(lab: Lab, served: Run) -> None:
    run = lab.deploy("--limit", "t4", "--data", "tag=1.5b", "--data", "pull_via=api")
    assert run.code == 0, run.output
    names = [row["name"] for row in lab.api("t4", "/api/tags")["models"]]
    assert "deepseek-r1:1.5b" in names
    assert all(name.startswith("deepseek-r1:") for name in names)
    converged(lab)


def test_models_on_a_mount_of_their_own(lab: Lab, served: Run, broken: Broken) -> None:
    broken(
        "cpu",
        "mkdir -p /data; mount -t tmpfs -o size=512m tmpfs /data",
        "systemctl stop ollama; umount /data; rmdir /data",
    )
    run = lab.deploy("--limit", "cpu", "--data", "ollama_models=/data/models")
    assert run.code == 0, run.output
    assert lab.on("cpu", "stat -c %U:%G /data/models") == "ollama:ollama\n"
    assert lab.on("cpu", "ls /data/models/blobs")


def strip_driver(lab: Lab, host: str) -> None:
    lab.on(
        host,
        "systemctl stop ollama nvidia-persistenced; rmmod nvidia_uvm nvidia;"
        " DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y 'nvidia-*' cuda-keyring >/dev/null;"
        " rm -f /etc/modprobe.d/r1fleet-nvidia.conf",
    )


def test_a_slow_driver_stage_holds_nobody_else(lab: Lab, served: Run, broken: Broken) -> None:
    strip_driver(lab, "h100")
    others = [host for host in lab.hosts if host != "h100"]
    for host in others:  # so that they have work, too
        lab.on(host, "rm -f /var/lib/r1fleet/state.json")
    broken(
        "h100",
        """echo 'DPkg::Pre-Invoke {"sleep 30"};' >/etc/apt/apt.conf.d/99slow""",
        "rm -f /etc/apt/apt.conf.d/99slow",
    )
    run = lab.deploy()
    assert run.code == 0, run.output
    places = {line: number for number, line in enumerate(run.output.splitlines())}
    loaded = next(
        n for line, n in places.items() if "[h100]" in line and "loads the module" in line
    )
    for host in others:
        answered = next(
            n for line, n in places.items() if f"[{host}]" in line and "answers" in line
        )
        assert answered < loaded


def test_interrupting_a_run(lab: Lab, served: Run, broken: Broken) -> None:
    strip_driver(lab, "h100")
    broken(
        "h100",
        """echo 'DPkg::Pre-Invoke {"sleep 10"};' >/etc/apt/apt.conf.d/99slow""",
        "rm -f /etc/apt/apt.conf.d/99slow",
    )
    process = lab.start_deploy("-y")
    assert process.stdout
    for line in process.stdout:
        if "[h100]" in line and "installs branch" in line:
            process.send_signal(signal.SIGINT)
            break
    output = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert "goes on there" in output
    assert "Traceback" not in output
    converged(lab)
