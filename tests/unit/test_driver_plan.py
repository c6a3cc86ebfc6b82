"""Which driver a host gets, from what the probe shows."""

from dataclasses import replace

import pytest

from r1fleet.driver.plan import choose_flavour, plan
from r1fleet.settings import Settings
from tests.unit.build import BARE_DRIVER, bare, pci, working

SETTINGS = Settings()


def test_without_an_nvidia_gpu_nothing_is_done() -> None:
    assert plan(bare(), SETTINGS).action == "skip"


def test_a_bare_host_gets_headers_and_the_packages_of_its_branch_and_flavour() -> None:
    found = plan(bare("T4"), SETTINGS)
    assert (found.action, found.flavour, found.branch) == ("install", "open", 580)
    assert found.pinning == "nvidia-driver-pinning-580"
    assert found.packages == (
        "linux-headers-6.1.0-44-amd64",
        "nvidia-driver-cuda",
        "nvidia-kernel-open-dkms",
    )
    assert found.keyring_url.endswith("/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb")


def test_debian_13_on_arm_takes_its_own_repository() -> None:
    found = plan(bare("T4", distro_version="13", arch="aarch64"), SETTINGS)
    assert "/debian13/sbsa/" in found.keyring_url


@pytest.mark.parametrize(
    ("cards", "flavour"),
    [(["T4"], "open"), (["GTX 1080 Ti"], "proprietary"), (["RTX 5090"], "open")]
    + [(["GTX 1080 Ti", "T4"], "proprietary")],
)
def test_the_flavour_follows_the_generations(cards: list[str], flavour: str) -> None:
    ids = [device.device for device in pci(*cards)]
    assert choose_flavour(ids, 580) == (flavour, "")


def test_volta_beside_blackwell_is_refused() -> None:
    found = plan(bare("V100", "RTX 5090"), SETTINGS)
    assert found.action == "refuse"
    assert "1db5, 2b85" in found.reason


def test_a_branch_that_dropped_the_card_is_refused() -> None:
    found = plan(bare("GTX 1080 Ti"), Settings(driver_branch=595))
    assert found.action == "refuse"
    assert "580" in found.reason
    assert "595" in found.reason


def test_a_working_driver_is_left_alone_whatever_installed_it() -> None:
    probe = bare("T4", driver=working("T4", version="570.211.01"), distro="arch")
    assert plan(probe, SETTINGS).action == "none"


@pytest.mark.parametrize(
    ("card", "version", "action"),
    [("T4", "535.261.03", "install"), ("T4", "550.163.01", "none")]
    + [("GTX 1080 Ti", "550.163.01", "install"), ("GTX 1080 Ti", "570.86.10", "none")],
)
def test_a_driver_under_the_engines_floor_is_replaced(card: str, version: str, action: str) -> None:
    assert plan(bare(card, driver=working(card, version=version)), SETTINGS).action == action


def test_a_gpu_that_a_loaded_driver_does_not_list_is_nothing_to_install_against() -> None:
    found = plan(bare("T4", "T4", driver=working("T4")), SETTINGS)
    assert found.action == "refuse"
    assert found.reason == "the driver lists 1 of 2 GPUs"


def test_a_missing_uvm_is_only_loaded_whoever_installed_the_driver() -> None:
    without_uvm = bare("T4", driver=working("T4", uvm_loaded=False), distro="arch")
    assert plan(without_uvm, SETTINGS).action == "load"


def test_a_card_that_belongs_to_a_virtual_machine_is_left_to_it() -> None:
    found = plan(bare("T4", pci=pci("T4", driver="vfio-pci")), SETTINGS)
    assert found.action == "refuse"
    assert "vfio-pci" in found.reason
    assert plan(bare("T4", pci=pci("T4", driver="nouveau")), SETTINGS).action == "install"


def test_an_unknown_distribution_is_refused_with_the_way_out() -> None:
    found = plan(bare("T4", distro="gentoo", distro_name="Gentoo"), SETTINGS)
    assert found.action == "refuse"
    assert "Gentoo" in found.reason
    assert "left alone" in found.fix


def test_a_container_never_gets_a_kernel_driver() -> None:
    assert plan(bare("T4", virtualisation="lxc"), SETTINGS).action == "refuse"


def test_audio_and_bridges_of_the_same_vendor_are_no_gpus() -> None:
    audio = replace(pci("T4")[0], device_class="040300")
    assert plan(bare(pci=(audio,)), SETTINGS).action == "skip"


def test_the_reason_tells_what_is_wrong() -> None:
    not_loaded = replace(BARE_DRIVER, smi_rc=9, on_disk="580.178.04")
    assert plan(bare("T4", driver=not_loaded), SETTINGS).reason.endswith("not loaded")
