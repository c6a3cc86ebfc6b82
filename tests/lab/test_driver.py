"""The life of a driver on booted hosts: changed, rolled back, counted, held against the archive."""

import time
from collections.abc import Callable

import pytest

from tests.lab.conftest import ROOT, Lab, Run

pytestmark = pytest.mark.lab

Broken = Callable[[str, str, str], None]

PURGE = (
    "systemctl stop ollama nvidia-persistenced; rmmod nvidia_uvm nvidia;"
    " DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y 'nvidia-*' 'libnvidia-*' libcuda1"
    " firmware-nvidia-gsp cuda-keyring >/dev/null; rm -f /etc/modprobe.d/r1fleet-nvidia.conf"
)


def only(lab: Lab, hosts: str, *data: str, dry: bool = False) -> Run:
    """The main job on some hosts ("t4 h100")."""
    flags = [word for host in hosts.split() for word in ("--limit", host)]
    return lab.deploy(*flags, *(word for item in data for word in ("--data", item)), dry=dry)


def boot_id(lab: Lab, host: str) -> str:
    return lab.on(host, "cat /proc/sys/kernel/random/boot_id")


def reboot(lab: Lab, host: str) -> None:
    before = boot_id(lab, host)
    lab.on(host, "systemctl reboot", ok=False)
    deadline = time.monotonic() + 120
    while lab.on(host, "cat /proc/sys/kernel/random/boot_id", ok=False) in ("", before):
        assert time.monotonic() < deadline, f"{host} does not come back"
        time.sleep(1)


def loaded(lab: Lab, host: str) -> str:
    return lab.on(host, "cat /sys/module/nvidia/version").partition(".")[0]


def refused(lab: Lab, host: str, *data: str) -> str:
    run = only(lab, host, *data)
    assert run.code == 1
    assert "Traceback" not in run.output
    assert run.row(host)["changes"] == []
    reason: str = run.row(host)["reason"]
    return reason


def planned_install(lab: Lab, host: str, *data: str) -> str:
    """The last command of the driver's plan, as `--dry` shows it."""
    run = only(lab, host, *data, dry=True)
    lines = [line.strip() for line in run.row(host)["changes"] if "apt-get install" in line]
    assert lines, run.output
    return str(lines[-1])


def test_other_branches_and_back_without_a_reboot(lab: Lab, served: Run) -> None:
    """t4 is a Debian 12, h100 a Debian 13."""
    before = boot_id(lab, "t4"), boot_id(lab, "h100")
    for branch in ("570", "580", "595"):
        run = only(lab, "t4 h100", f"driver_branch={branch}")
        assert run.code == 0, run.output
        assert (loaded(lab, "t4"), loaded(lab, "h100")) == (branch, branch)
    again = only(lab, "t4 h100", "driver_branch=595")
    assert again.verdicts() == {"t4": "as wanted", "h100": "as wanted"}
    assert only(lab, "t4 h100", "driver_branch=580").code == 0
    assert (boot_id(lab, "t4"), boot_id(lab, "h100")) == before
    assert only(lab, "t4 h100").verdicts() == {"t4": "as wanted", "h100": "as wanted"}


def test_the_persistence_daemon_keeps_the_driver_loaded(lab: Lab, served: Run) -> None:
    """The package's own unit starts it with --no-persistence-mode."""
    for host in ("t4", "h100"):
        found = lab.on(host, "nvidia-smi --query-gpu=persistence_mode --format=csv,noheader")
        assert found == "Enabled\n"


def test_the_driver_of_before_comes_back(lab: Lab, served: Run) -> None:
    assert only(lab, "t4", "driver_branch=595").code == 0
    run = only(lab, "t4", "driver_rollback=true")
    assert run.code == 0, run.output
    assert loaded(lab, "t4") == "580"
    assert only(lab, "t4", "driver_rollback=true").verdicts() == {"t4": "as wanted"}


def test_a_branch_that_dropped_the_card_is_refused(lab: Lab, served: Run) -> None:
    assert "580" in refused(lab, "old", "driver_branch=595")


def test_a_second_run_is_one_remote_command_by_the_hosts_own_count(
    lab: Lab, served: Run, broken: Broken
) -> None:
    conf = "/etc/ssh/sshd_config.d/count.conf"
    for host in lab.hosts:
        broken(
            host,
            f"echo 'LogLevel VERBOSE' >{conf}; systemctl reload ssh",
            f"rm -f {conf}; systemctl reload ssh",
        )
    now = "journalctl --sync; date '+%F %T.%6N'"  # a line counts by when the journal gets it
    began = {host: lab.on(host, now).strip() for host in lab.hosts}
    time.sleep(1)  # sshd reads its configuration again
    run = lab.deploy()
    assert set(run.verdicts().values()) == {"as wanted"}, run.output
    for host, since in began.items():
        sessions = lab.on(
            host,
            "journalctl --sync;"
            f" journalctl -q -o cat -u ssh --since '{since}' | grep -c 'Starting session'",
        )
        assert int(sessions) == 2  # the run's one, and this very count


def test_an_engine_that_found_fewer_gpus_than_nvidia_smi_fails(lab: Lab, served: Run) -> None:
    uuid = lab.on("duo", "nvidia-smi --query-gpu=uuid --format=csv,noheader").split()[0]
    folder = "/etc/systemd/system/ollama.service.d"
    assert only(lab, "duo", "tag=7b").code == 0  # one card is enough for it
    lab.on(
        "duo",
        f"mkdir -p {folder}; printf '[Service]\\nEnvironment=CUDA_VISIBLE_DEVICES={uuid}\\n'"
        f" >{folder}/one.conf; systemctl daemon-reload; systemctl restart ollama",
    )
    run = only(lab, "duo", "tag=7b")
    lab.on("duo", f"rm {folder}/one.conf; systemctl daemon-reload; systemctl restart ollama")
    assert run.code == 1
    assert "Ollama found 1 of 2 GPUs" in run.row("duo")["reason"]
    assert only(lab, "duo").code == 0


def test_the_archives_driver_of_debian_12_is_too_old(lab: Lab, served: Run) -> None:
    lab.on("t4", PURGE)
    reason = refused(lab, "t4", "driver_source=distro")
    assert "535" in reason
    assert "550" in reason
    assert only(lab, "t4").code == 0


def test_the_archives_driver_of_debian_13_resolves_and_serves_no_pascal(
    lab: Lab, served: Run, broken: Broken
) -> None:
    """Against the real archive; nothing of it is installed."""
    for host in ("h100", "old"):
        lab.on(host, PURGE)
    reason = refused(lab, "old", "driver_source=distro")
    assert "550" in reason
    assert "570" in reason
    command = planned_install(lab, "h100", "driver_source=distro")
    sources = "/etc/apt/sources.list.d/r1fleet-non-free*"
    broken("h100", "true", f"rm -f {sources}; apt-get -qq update")
    script = (ROOT / "r1fleet/driver/install.sh").read_text()
    tried = lab.on(
        "h100",
        f"OUT=/dev/null\n{script}\nadd_components contrib non-free non-free-firmware >/dev/null\n"
        f"{command} --simulate",
    )
    assert "Inst nvidia-open-kernel-dkms (550." in tried
    assert "Inst libcuda1 (550." in tried
    lab.on("h100", f"rm -f {sources}; apt-get -qq update")
    assert only(lab, "h100 old").code == 0


def test_a_driver_that_the_kernel_had_first_costs_one_reboot(lab: Lab, served: Run) -> None:
    lab.on("rtx3090", PURGE)
    reboot(lab, "rtx3090")
    before = boot_id(lab, "rtx3090")
    assert "reboot" in refused(lab, "rtx3090", "driver_reboot=never")
    run = only(lab, "rtx3090")
    assert run.code == 0, run.output
    assert run.output.count("is back after the reboot") == 1
    assert boot_id(lab, "rtx3090") != before
