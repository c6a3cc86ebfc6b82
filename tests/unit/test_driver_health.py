"""Proof and warnings of a driver, from fields as nvidia-smi prints them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet.driver import look
from r1fleet.driver.health import fault, warnings
from r1fleet.driver.look import GPU_FIELDS, HEALTH_FIELDS
from r1fleet.hostfacts import MigInstance, PciDevice, Probe, System, Unit
from r1fleet.probe import parse
from tests.unit.build import bare, working

SERVED = (Path(__file__).parent / "data" / "probe" / "duo_served.txt").read_text()
FINE = {
    "persistence_mode": "Enabled",
    "ecc.mode.current": "Enabled",
    "ecc.mode.pending": "Enabled",
    "ecc.errors.uncorrected.volatile.total": "0",
    "remapped_rows.pending": "0",
    "remapped_rows.failure": "0",
    "retired_pages.pending": "No",
    "reset_status.reset_required": "No",
    "fabric.state": "Completed",
    "fabric.status": "Success",
    "mig.mode.current": "Disabled",
}


def with_health(**fields: str) -> Any:
    driver = working("T4")
    row = replace(
        driver.gpus[0], health=FINE | {k.replace("__", "."): v for k, v in fields.items()}
    )
    return bare("T4", driver=replace(driver, gpus=(row,)))


def test_a_healthy_card_warns_of_nothing() -> None:
    assert warnings(with_health()) == []
    assert fault(with_health()) is None


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("ecc__mode__pending", "Disabled", "ECC will be disabled"),
        ("ecc__errors__uncorrected__volatile__total", "3", "3 uncorrected memory errors"),
        ("remapped_rows__pending", "1", "remapped at the next reset"),
        ("remapped_rows__failure", "Yes", "have it replaced"),
        ("retired_pages__pending", "Yes", "retired at the next reboot"),
        ("reset_status__reset_required", "Yes", "asks for a reset"),
        ("mig__mode__current", "Enabled", "no instance"),
        ("fabric__state", "In Progress", "802"),
    ],
)
def test_every_warning_names_the_gpu(field: str, value: str, word: str) -> None:
    (line,) = warnings(with_health(**{field: value}))
    assert word in line
    assert line.startswith("GPU 0 (T4, 00000000:01:00.0)")


@pytest.mark.parametrize("value", ["[N/A]", "[Not Supported]", "[Unknown Error]", "N/A", ""])
def test_fields_that_a_card_lacks_are_no_warning(value: str) -> None:
    assert warnings(with_health(**{name.replace(".", "__"): value for name in FINE})) == []


def test_mig_with_instances_is_fine() -> None:
    probe = with_health(mig__mode__current="Enabled")
    assert (
        warnings(
            replace(probe, driver=replace(probe.driver, mig=(MigInstance(0, "1g.6gb", "MIG-1"),)))
        )
        == []
    )


def test_xid_lines_and_kernels_without_a_module_are_warned_of() -> None:
    line = "[ 9.1] NVRM: Xid (PCI:0000:01:00): 79, pid=812, GPU has fallen off the bus."
    probe = bare(
        "T4",
        driver=working("T4", kernel_log=(line,)),
        system=System(other_kernels={"6.1.0-45-amd64": False, "6.1.0-46-amd64": True}),
    )
    found = warnings(probe)
    assert len(found) == 2
    assert "0000:01:00" in found[0]
    assert "6.1.0-45-amd64" in found[1]


def with_switch(fabric: str | None, active: str) -> Probe:
    switch = PciDevice("0000:81:00.0", "068000", "10de", "22a3", "10de:0000", None)
    probe = bare("T4", driver=working("T4"))
    return replace(
        probe,
        pci=(*probe.pci, switch),
        packages={"nvidia-fabricmanager": fabric} if fabric else {},
        units={"nvidia-fabricmanager.service": Unit(active=active)},
    )


@pytest.mark.parametrize(
    ("fabric", "active", "repair", "word"),
    [
        (None, "inactive", "fabric", "it is missing"),
        ("580.95.05-1", "active", "fabric", "its version is 580.95.05-1"),
        ("580.178.04-1", "failed", "services", "not running"),
    ],
)
def test_nvswitch_needs_a_running_manager_of_the_same_version(
    fabric: str | None, active: str, repair: str, word: str
) -> None:
    """All GPUs are in nvidia-smi's list then, and CUDA fails with error 802."""
    found = fault(with_switch(fabric, active))
    assert found
    assert (found.repair, word in found.what) == (repair, True)


def test_nvswitch_with_its_manager_is_healthy() -> None:
    assert fault(with_switch("580.178.04-1", "active")) is None


@pytest.mark.parametrize(
    ("line", "start"),
    [
        (
            "[ 12.3] NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus.",
            "GPU 0 (T4, 00000000:01:00.0): Xid 79, it fell off the bus",
        ),
        ("NVRM: Xid (PCI:0000:09:00): 200, pid=1", "GPU 0000:09:00: Xid 200 ("),
        ("NVRM: Xid of a form that is new", "kernel log: NVRM"),
    ],
)
def test_an_xid_names_its_gpu_and_what_it_asks_for(line: str, start: str) -> None:
    probe = bare("T4", driver=working("T4", kernel_log=(line,)))
    (found,) = warnings(probe)
    assert found.startswith(start)


def test_a_loaded_module_of_another_flavour_than_on_disk_is_stale() -> None:
    probe = bare("T4", driver=working("T4", open_module=False, disk_open=True))
    found = fault(probe)
    assert found
    assert found.repair == "reload"


def section(name: str, lines: list[str]) -> str:
    head, _, tail = SERVED.partition(f"@@{name}\n")
    return f"{head}@@{name}\n" + "\n".join(lines) + "\n@@" + tail.partition("@@")[2]


def test_health_fields_and_instances_are_read() -> None:
    row = "0, NVIDIA A30, GPU-1, 00000000:01:00.0, 580.178.04, 24576, 0, 8.0"
    health = "Enabled, Enabled, Enabled, 0, 0, 0, [N/A], No, N/A, N/A, Enabled"
    found = parse(section("gpus", [f"{row}, {health}", "rc=0"]))
    (gpu,) = found.driver.gpus
    assert gpu.health["mig.mode.current"] == "Enabled"
    assert gpu.health["retired_pages.pending"] == "[N/A]"


def test_what_nvidia_smi_says_instead_of_rows_is_kept() -> None:
    said = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost."
    found = parse(section("gpus", [said, "rc=15"]))
    assert (found.driver.smi_rc, found.driver.smi_message) == (15, said)


FACTS = [
    *("loaded 580.95.05", "disk 580.178.04", "license Dual MIT/GPL", "library 580.95.05"),
    *("library 580.178.04", "refs nvidia 3", "mark secure-boot", "mark runfile", "headers no"),
    *("kernel 6.1.0-45-amd64 no", "free / 40960000", "free /boot 204800"),
    *("session jon wayland", "work docker-4f.scope", "holder 812 11520 maria jupyter.service py 3"),
    *('record {"held": true}', "log NVRM: Xid (PCI:0000:01:00): 79", "locked nvidia-driver-0:5*"),
]


def test_facts_of_the_driver_are_read() -> None:
    found = parse(section("module", FACTS))
    driver, system = found.driver, found.system
    assert (driver.loaded, driver.on_disk, driver.library) == ("580.95.05", *["580.178.04"] * 2)
    assert driver.disk_open
    assert driver.refcounts == {"nvidia": 3}
    (holder,) = driver.holders
    assert (holder.pid, holder.name, holder.user, holder.age_s) == (812, "py 3", "maria", 11520)
    assert holder.unit == "jupyter.service"
    assert system.marks == {"secure-boot", "runfile"}
    assert not system.headers
    assert system.other_kernels == {"6.1.0-45-amd64": False}
    assert system.free_mib == {"/": 40000, "/boot": 200}
    assert system.sessions[0].user == "jon"
    assert system.workloads == ("docker-4f.scope",)
    assert system.record == {"held": True}
    assert "nvidia-driver-0:5*" in system.held


def test_holds_and_half_installed_packages_are_read() -> None:
    lines = ["nvidia-driver-cuda 580-1 hi ", "dkms 3.0 ii ", "libcuda1 580-1 iF ", "zstd 1 rc "]
    found = parse(section("packages", lines))
    assert found.system.held == {"nvidia-driver-cuda"}
    assert found.system.broken == {"libcuda1"}
    assert set(found.packages) == {"nvidia-driver-cuda", "dkms"}


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["[N/A]", "[Unknown Error]", "0", "1", "Enabled", "8.9", "x"]),
            st.text(alphabet="abcXYZ019 .[]/", max_size=12),
        ),
        max_size=len(GPU_FIELDS) + len(HEALTH_FIELDS) + 3,
    )
)
def test_any_row_is_read_or_passed_over(cells: list[str]) -> None:
    sections = {"module": [], "gpus": [", ".join(cells), "rc=0"], "compute": []}
    driver = look.driver(sections)
    probe = bare("T4", driver=replace(driver, loaded="580.1"))
    assert isinstance(warnings(probe), list)
    fault(probe)
