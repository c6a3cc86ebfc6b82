"""Faults of a driver on booted hosts: each is repaired, or refused in one line, and the other hosts
finish first. The faults themselves are in lab/faults.yaml."""

from collections.abc import Callable

import pytest

from tests.lab.conftest import Lab, Run
from tests.lab.test_driver import PURGE, boot_id, loaded, only, refused

pytestmark = pytest.mark.lab

SetFault = Callable[[str, str], None]
STATE = "/var/lib/r1fleet/state.json"


def line_of(run: Run, host: str, words: str) -> int:
    """Where a host's first line with these words stands in the output."""
    lines = enumerate(run.output.splitlines())
    found = next((n for n, line in lines if f"[{host}]" in line and words in line), None)
    assert found is not None, f"{host}: no line with {words!r}\n{run.output}"
    return found


def others_are_fine(run: Run, host: str) -> None:
    rest = {verdict for name, verdict in run.verdicts().items() if name != host}
    assert rest <= {"as wanted", "changed"}, run.output


@pytest.mark.parametrize("name", ["mismatch", "uvm-lost"])
def test_what_a_reload_puts_right_costs_no_reboot(
    lab: Lab, served: Run, fault: SetFault, name: str
) -> None:
    before = boot_id(lab, "t4")
    fault("t4", name)
    run = only(lab, "t4")
    assert run.code == 0, run.output
    assert lab.on("t4", "nvidia-smi -L; ls /dev/nvidia-uvm").startswith("GPU 0")
    assert boot_id(lab, "t4") == before


def test_half_installed_packages_are_finished(lab: Lab, served: Run, fault: SetFault) -> None:
    fault("t4", "half-installed")
    assert "half-configured" in lab.on("t4", "dpkg -s nvidia-modprobe")
    assert only(lab, "t4").code == 0
    assert "install ok installed" in lab.on("t4", "dpkg -s nvidia-modprobe")


def test_a_module_in_use_costs_one_reboot_where_that_may_be(
    lab: Lab, served: Run, fault: SetFault
) -> None:
    before = boot_id(lab, "h100")
    fault("h100", "module-in-use")
    run = only(lab, "h100", "driver_branch=595", "driver_reboot=ask")
    assert run.code == 1
    assert "reboot pending" in run.row("h100")["reason"]
    assert "systemctl reboot" in run.row("h100")["reason"]
    assert boot_id(lab, "h100") == before
    run = only(lab, "h100", "driver_branch=595")
    assert run.code == 0, run.output
    assert run.output.count("is back after the reboot") == 1
    assert (loaded(lab, "h100"), boot_id(lab, "h100") == before) == ("595", False)
    assert only(lab, "h100", "driver_branch=580").code == 0


def test_serving_hosts_take_turns_at_rebooting(lab: Lab, served: Run, fault: SetFault) -> None:
    for host in ("t4", "duo"):
        fault(host, "module-in-use")
    run = only(lab, "t4 duo", "driver_branch=595")
    assert run.code == 0, run.output
    first, second = sorted(("t4", "duo"), key=lambda host: line_of(run, host, "reboots:"))
    assert line_of(run, first, "answers") < line_of(run, second, "reboots:")
    assert only(lab, "t4 duo", "driver_branch=580").code == 0


def test_a_slow_reboot_delays_nobody(lab: Lab, served: Run, fault: SetFault) -> None:
    for name in ("nouveau-bound", "reboot-slow"):
        fault("rtx3090", name)
    for host in lab.hosts:  # so that they have work, too
        if host != "rtx3090":
            lab.on(host, f"rm -f {STATE}")
    run = lab.deploy()
    assert run.code == 0, run.output
    back = line_of(run, "rtx3090", "is back after the reboot")
    assert line_of(run, "rtx3090", "reboots:") < back
    for host in lab.hosts:
        assert host == "rtx3090" or line_of(run, host, "answers") < back


def test_a_host_that_does_not_come_back_fails_alone_and_is_repaired_later(
    lab: Lab, served: Run, fault: SetFault
) -> None:
    for name in ("nouveau-bound", "reboot-never"):
        fault("t4", name)
    run = lab.deploy("--data", "driver_reboot_timeout_s=15")
    assert run.code == 1
    assert "not back after 15 s" in run.row("t4")["reason"]
    assert "Traceback" not in run.output
    others_are_fine(run, "t4")
    lab.cli("start", "t4")
    assert only(lab, "t4").code == 0
    assert loaded(lab, "t4") == "580"


def test_cards_that_tell_nothing_of_themselves_are_used_all_the_same(
    lab: Lab, served: Run, fault: SetFault
) -> None:
    fault("t4", "smi-not-available")
    row = "nvidia-smi --query-gpu=memory.total,ecc.mode.current,compute_cap --format=csv,noheader"
    assert lab.on("t4", row) == "[Unknown Error], [Unknown Error], [N/A]\n"
    run = only(lab, "t4")
    assert run.verdicts() == {"t4": "as wanted"}, run.output
    assert run.row("t4")["vram_mib"] == 15360  # by its PCI id


@pytest.mark.parametrize(
    ("host", "name", "told"),
    [
        ("duo", "gpu-lost", "0000:02:00.0"),
        ("duo", "smi-hangs", "hangs"),
    ],
)
def test_what_only_a_person_can_repair_is_named_and_hurts_no_other_host(
    lab: Lab, served: Run, fault: SetFault, host: str, name: str, told: str
) -> None:
    fault(host, name)
    run = lab.deploy()
    assert run.code == 1
    assert told in run.row(host)["reason"]
    assert run.row(host)["changes"] == []
    assert "Traceback" not in run.output
    others_are_fine(run, host)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("secure-boot", "Secure Boot"),
        ("no-headers", "no headers"),
        ("runfile", ".run"),
    ],
)
def test_what_would_break_half_way_is_refused_before_anything_changes(
    lab: Lab, served: Run, fault: SetFault, name: str, told: str
) -> None:
    lab.on("h100", PURGE)
    fault("h100", name)
    assert told in refused(lab, "h100")
    lab.fault("h100", name, "off")
    assert only(lab, "h100").code == 0


def test_packages_that_somebody_holds_are_named_and_left(
    lab: Lab, served: Run, fault: SetFault
) -> None:
    fault("t4", "held")
    assert "nvidia-driver-cuda" in refused(lab, "t4", "driver_branch=595")
    assert loaded(lab, "t4") == "580"


def test_a_stranger_on_the_gpu_stays_until_he_is_named(lab: Lab, served: Run) -> None:
    pid = lab.on("t4", "sleep 600 </dev/nvidia0 >/dev/null 2>&1 & echo $!").strip()
    reason = refused(lab, "t4", "driver_flavour=proprietary")
    assert f"sleep (pid {pid}, user root" in reason
    run = only(lab, "t4", "driver_flavour=proprietary", "driver_stop_others=sleep")
    assert run.code == 0, run.output
    assert lab.on("t4", f"kill -0 {pid} || echo ended") == "ended\n"
    assert only(lab, "t4", "driver_flavour=open").code == 0
