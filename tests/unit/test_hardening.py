"""The hardening of the engine's unit: what each host's drop-in says, and when it is the lesser."""

from dataclasses import replace
from typing import Any

import pytest

from r1fleet import decide, paths
from r1fleet.engine import wanted
from r1fleet.engine.wanted import NO_GPUS, Sandbox
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings
from r1fleet.templates import render
from tests.unit.build import bare, working
from tests.unit.served import served
from tests.unit.test_amd import amd_host

T4 = bare("T4", driver=working("T4"))
DUO = bare("RTX 4090", "RTX 4090", driver=working("RTX 4090", "RTX 4090"))


OPEN = {"expose": "open", "expose_unauthenticated": "yes-i-know"}


def box(probe: Probe = T4, /, **settings: Any) -> Sandbox:
    known = Settings(**settings)
    return wanted.sandbox(known, decide.size(known, probe).sizing.chosen, probe)


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def full(probe: Probe = T4, /, **settings: Any) -> dict[str, list[str]]:
    return directives(box(probe, **settings).full.content)


def test_the_devices_are_those_of_the_cards_that_the_engine_uses() -> None:
    assert full()["DeviceAllow"] == ["char-nvidia* rw", "char-drm rw"]
    assert full(amd_host())["DeviceAllow"] == ["char-kfd rw", "char-drm rw"]
    assert "PrivateDevices" not in full()
    on_cpu = full(bare(), no_gpu="cpu")
    assert "DeviceAllow" not in on_cpu
    assert on_cpu["PrivateDevices"] == ["yes"]


def test_only_the_model_directory_and_the_home_can_be_written() -> None:
    found = full(ollama_models="/data/models")
    assert found["ProtectSystem"] == ["strict"]
    assert found["ReadWritePaths"] == ["/data/models"]
    assert found["StateDirectory"] == ["ollama"]


def test_a_model_directory_below_home_is_all_that_is_seen_there() -> None:
    found = full(ollama_models="/home/ai/models")
    assert found["ProtectHome"] == ["tmpfs"]
    assert found["BindPaths"] == found["ReadWritePaths"] == ["/home/ai/models"]
    assert full()["ProtectHome"] == ["yes"]


def test_rocm_may_map_memory_that_is_writable_and_executable() -> None:
    assert "MemoryDenyWriteExecute" in full()
    assert "MemoryDenyWriteExecute" not in full(amd_host())


@pytest.mark.parametrize(
    "settings",
    [
        {"ollama_host": "0.0.0.0", **OPEN},
        {"ollama_host": "10.0.0.7:11434", **OPEN},
        {"pull_via": "api"},
        {"ollama_no_cloud": False},
        {"unit_network": "open"},
    ],
)
def test_the_network_is_loopback_unless_the_settings_need_more(settings: dict[str, Any]) -> None:
    assert full()["IPAddressDeny"] == ["any"]
    assert full()["IPAddressAllow"] == ["localhost"]
    assert "IPAddressDeny" not in full(**settings)
    assert "IPAddressAllow" not in full(**settings)


def test_limits_are_there_only_when_set() -> None:
    names = ("MemoryMax", "CPUQuota", "TasksMax", "LimitNOFILE")
    assert not [name for name in names if name in full()]
    found = full(unit_memory_max_mib=4096, unit_cpu_percent=800, unit_tasks_max=512)
    assert [found.get(name) for name in names] == [["4096M"], ["800%"], ["512"], None]
    assert full(unit_files_max=65536)["LimitNOFILE"] == ["65536"]


def test_the_lesser_profile_has_nothing_that_can_hide_a_gpu() -> None:
    lesser = directives(box().lesser.content)
    hiding = ("DeviceAllow", "DevicePolicy", "ProtectClock", "PrivateTmp", "PrivateUsers")
    hiding += ("SystemCallFilter", "MemoryDenyWriteExecute", "ProtectProc", "PrivateDevices")
    hiding += ("ProtectControlGroups", "ProtectKernelTunables")
    assert not [name for name in hiding if name in lesser]
    assert lesser["ProtectSystem"] == ["strict"]
    assert lesser["CapabilityBoundingSet"] == [""]
    assert lesser["IPAddressDeny"] == ["any"]
    assert "LESSER" in box().lesser.content
    assert "LESSER" not in box().full.content


def test_a_lesser_profile_that_was_needed_stays_until_an_input_changes() -> None:
    def goes_on_with(probe: Probe, /, **settings: Any) -> str:
        later = box(probe, **settings)
        kind = later.wanted({paths.ENGINE_HARDENING: box().lesser.sha256})
        return "lesser" if kind is later.lesser else "full"

    assert goes_on_with(T4) == "lesser"
    assert goes_on_with(replace(T4, boot_id="another")) == "lesser"
    assert goes_on_with(bare("T4", driver=working("T4", version="595.45.04"))) == "full"
    assert goes_on_with(replace(T4, kernel="6.1.0-45-amd64")) == "full"
    assert goes_on_with(T4, engine_version="0.32.16") == "full"
    assert goes_on_with(T4, unit_network="open") == "full"
    assert box().wanted({}) is not box().lesser


def test_the_engine_has_to_find_the_cards_of_the_plan() -> None:
    assert (box().gpus, box(DUO).gpus) == (1, 2)
    assert box(amd_host()).gpus == 1
    assert box(T4, placement="cpu").gpus == 0


def test_the_wait_says_what_a_missing_gpu_is_known_by() -> None:
    script = render("wait-for-gpus")
    ends = [line for line in script.splitlines() if "echo" in line]
    assert len(ends) == 2
    assert all(NO_GPUS in line for line in ends)


def test_the_drop_in_is_a_managed_file_of_the_engine() -> None:
    probe = served()
    chosen = decide.size(Settings(), probe).sizing.chosen
    assert paths.ENGINE_HARDENING in paths.MANAGED_FILES
    assert paths.ENGINE_HARDENING in [
        file.path for file in wanted.engine(Settings(), chosen, probe).files
    ]
