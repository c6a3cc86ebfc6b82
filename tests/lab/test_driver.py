"""The life of a driver on booted hosts: changed, broken, repaired, or refused by name."""

import time
from collections.abc import Callable

import pytest

from tests.lab.conftest import Lab, Run

pytestmark = pytest.mark.lab

Broken = Callable[[str, str, str], None]

PURGE = (
    "systemctl stop ollama nvidia-persistenced; rmmod nvidia_uvm nvidia;"
    " DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y 'nvidia-*' 'libnvidia-*' libcuda1"
    " cuda-keyring >/dev/null; rm -f /etc/modprobe.d/r1fleet-nvidia.conf"
)
HANG = r"printf '#!/bin/sh\nexec sleep 3600\n' >/usr/bin/nvidia-smi; chmod 755 /usr/bin/nvidia-smi"


def only(lab: Lab, host: str, *data: str) -> Run:
    flags = [word for item in data for word in ("--data", item)]
    return lab.deploy("--limit", host, *flags)


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


def test_other_branches_and_back_without_a_reboot(lab: Lab, served: Run) -> None:
    before = boot_id(lab, "t4")
    for branch in ("595", "570", "580"):
        run = only(lab, "t4", f"driver_branch={branch}")
        assert run.code == 0, run.output
        assert loaded(lab, "t4") == branch
        assert only(lab, "t4", f"driver_branch={branch}").verdicts() == {"t4": "as wanted"}
    assert boot_id(lab, "t4") == before
    assert only(lab, "t4").verdicts() == {"t4": "as wanted"}


def test_the_driver_of_before_comes_back(lab: Lab, served: Run) -> None:
    assert only(lab, "t4", "driver_branch=595").code == 0
    run = only(lab, "t4", "driver_rollback=true")
    assert run.code == 0, run.output
    assert loaded(lab, "t4") == "580"
    assert only(lab, "t4", "driver_rollback=true").verdicts() == {"t4": "as wanted"}


def test_a_branch_that_dropped_the_card_is_refused(lab: Lab, served: Run) -> None:
    assert "580" in refused(lab, "old", "driver_branch=595")


def test_a_library_under_an_older_module_is_put_right_by_a_reload(lab: Lab, served: Run) -> None:
    before = boot_id(lab, "t4")
    lab.on("t4", "echo 580.95.05 >/sys/module/nvidia/version")
    assert "mismatch" in lab.on("t4", "nvidia-smi", ok=False)
    run = only(lab, "t4")
    assert run.code == 0, run.output
    assert lab.on("t4", "nvidia-smi -L").startswith("GPU 0")
    assert boot_id(lab, "t4") == before


def test_a_stranger_on_the_gpu_stays_until_he_is_named(lab: Lab, served: Run) -> None:
    pid = lab.on("t4", "sleep 600 </dev/nvidia0 >/dev/null 2>&1 & echo $!").strip()
    reason = refused(lab, "t4", "driver_flavour=proprietary")
    assert f"sleep (pid {pid}, user root" in reason
    run = only(lab, "t4", "driver_flavour=proprietary", "driver_stop_others=sleep")
    assert run.code == 0, run.output
    assert lab.on("t4", f"kill -0 {pid} || echo ended") == "ended\n"
    assert only(lab, "t4", "driver_flavour=open").code == 0


@pytest.mark.parametrize(
    ("breaks", "mends", "told"),
    [
        (
            "mkdir -p /sys/module/module/parameters;"
            " echo Y >/sys/module/module/parameters/sig_enforce",
            "rm -rf /sys/module/module",
            "Secure Boot",
        ),
        (
            "DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y 'linux-headers*' >/dev/null;"
            " mv /etc/apt/sources.list.d/r1lab-kernel.list /root; apt-get -qq update",
            "mv -f /root/r1lab-kernel.list /etc/apt/sources.list.d; apt-get -qq update",
            "no headers",
        ),
        (": >/usr/bin/nvidia-uninstall", "rm -f /usr/bin/nvidia-uninstall", ".run"),
    ],
    ids=["Secure Boot", "no headers", "runfile"],
)
def test_what_would_break_half_way_is_refused_before_anything_changes(
    lab: Lab, served: Run, broken: Broken, breaks: str, mends: str, told: str
) -> None:
    lab.on("h100", PURGE)
    broken("h100", breaks, mends)
    assert told in refused(lab, "h100")
    lab.on("h100", mends)
    assert only(lab, "h100").code == 0


def test_the_archives_driver_of_debian_12_is_too_old(lab: Lab, served: Run) -> None:
    lab.on("t4", PURGE)
    reason = refused(lab, "t4", "driver_source=distro")
    assert "535" in reason
    assert "550" in reason
    assert only(lab, "t4").code == 0


def test_a_lost_gpu_is_named_and_left_to_a_person(lab: Lab, served: Run, broken: Broken) -> None:
    broken(
        "duo",
        "mv /proc/driver/nvidia/gpus/0000:02:00.0 /root/lost",
        "mv /root/lost /proc/driver/nvidia/gpus/0000:02:00.0",
    )
    assert "0000:02:00.0" in refused(lab, "duo")


def test_an_nvidia_smi_that_hangs_fails_its_host_alone(
    lab: Lab, served: Run, broken: Broken
) -> None:
    broken(
        "duo",
        f"mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.r; {HANG}",
        "mv /usr/bin/nvidia-smi.r /usr/bin/nvidia-smi",
    )
    run = lab.deploy()
    assert run.code == 1
    assert "hangs" in run.row("duo")["reason"]
    others = {name: verdict for name, verdict in run.verdicts().items() if name != "duo"}
    assert set(others.values()) <= {"as wanted", "changed"}


def test_a_driver_that_the_kernel_had_first_costs_one_reboot(lab: Lab, served: Run) -> None:
    lab.on("rtx3090", PURGE)
    reboot(lab, "rtx3090")
    before = boot_id(lab, "rtx3090")
    assert "reboot" in refused(lab, "rtx3090", "driver_reboot=never")
    run = only(lab, "rtx3090")
    assert run.code == 0, run.output
    assert run.output.count("is back after the reboot") == 1
    assert boot_id(lab, "rtx3090") != before
