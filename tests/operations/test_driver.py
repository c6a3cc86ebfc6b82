"""The driver stage, read from its generators: what is run on a host in which state."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.exceptions import ConnectError

from r1fleet import outcome, paths, stages
from r1fleet.driver import install as driver
from r1fleet.driver import reboot as reboot_module
from r1fleet.driver import turns as turn
from r1fleet.driver.plan import plan
from r1fleet.fleet import HostRun
from r1fleet.gateway.wanted import UNIT
from r1fleet.hostfacts import GpuHolder, PciDevice, Probe, System
from r1fleet.remote import Result, is_refusal, shows, title
from r1fleet.settings import Settings
from tests.operations.fakehost import FakeHost
from tests.unit.build import RUNNING, bare, pci, working

NEW, OLD = "580.178.04", "580.95.05"
STRANGER = GpuHolder(812, "python3", "maria", 11520, "jupyter.service")


def titles(commands: Any) -> list[str]:
    return [title(command) for command in commands]


def activate(probe: Probe, **settings: Any) -> list[Any]:
    return list(driver.activate._inner(probe, plan(bare("T4"), Settings(**settings))))


def restart(probe: Probe, **settings: Any) -> list[Any]:
    read = Settings(**settings)
    return list(driver.restart._inner(probe, plan(bare("T4"), read), read))


def stale(**changes: Any) -> Probe:
    """Installed anew under a loaded module: exit code 18."""
    return bare("T4", driver=working("T4", loaded=OLD, gpus=(), smi_rc=18), **changes)


def test_a_bare_host_gets_packages_then_an_initramfs() -> None:
    probe, settings = bare("T4"), Settings()
    commands = list(driver.install._inner(probe, plan(probe, settings), settings))
    assert titles(commands)[-2:] == [
        "driver: installs branch 580, open modules",
        "driver: rebuilds the initramfs",
    ]
    assert shows(commands[-2]) == plan(probe, settings).commands


def test_the_script_is_the_shown_commands_and_carries_the_proxy() -> None:
    settings = Settings(https_proxy="http://proxy.example:3128", no_proxy="10.0.0.0/8")
    found = plan(bare("T4"), settings)
    script = driver._script(found, settings)
    assert all(f"\n{command}\n" in script for command in found.commands)
    assert "export https_proxy=http://proxy.example:3128" in script
    assert "DPkg::Lock::Timeout" in script


def test_a_stale_module_is_reloaded_without_a_reboot() -> None:
    (command,) = activate(stale())
    assert title(command) == "driver: reloads the module"


def test_a_fabric_manager_that_stands_still_is_started_and_no_module_touched() -> None:
    switch = PciDevice("0000:81:00.0", "068000", "10de", "22a3", "10de:0000", None)
    probe = bare("T4", driver=working("T4"), packages={"nvidia-fabricmanager": "580.178.04-1"})
    (command,) = activate(replace(probe, pci=(*probe.pci, switch)))
    assert title(command) == "driver: starts the driver's services"
    assert "rmmod" not in command.args[2]


@pytest.mark.parametrize("has_switch", [True, False])
def test_an_engine_that_may_have_found_no_gpu_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_switch: bool
) -> None:
    """It looked for them while the fabric manager stood still."""
    mark = tmp_path / "run" / "restart"
    monkeypatch.setattr(paths, "RESTART_MARK", str(mark))
    switch = PciDevice("0000:81:00.0", "068000", "10de", "22a3", "10de:0000", None)
    probe = bare("T4", driver=working("T4"), packages={"nvidia-fabricmanager": "580.178.04-1"})
    probe = replace(probe, pci=(*probe.pci, *([switch] if has_switch else [])))
    assert FakeHost(tmp_path, tmp_path.name).play(activate(probe))
    assert mark.exists() is has_switch


def test_a_module_that_is_not_loaded_is_loaded() -> None:
    probe = bare("T4", driver=working("T4", loaded=None, gpus=(), smi_rc=9, uvm_loaded=False))
    assert titles(activate(probe)) == ["driver: loads the module"]


def test_without_a_module_on_disk_no_reboot_would_help() -> None:
    probe = bare("T4", driver=working("T4", loaded=None, on_disk=None, gpus=(), smi_rc=9))
    (command,) = activate(probe)
    assert is_refusal(command)
    assert "no module was built" in title(command)


def test_one_reboot_where_another_driver_holds_the_card() -> None:
    probe = bare("T4", pci=pci("T4", driver="nouveau"), driver=working("T4", loaded=None, gpus=()))
    assert activate(probe) == []
    assert [command.function.__name__ for command in restart(probe)] == ["step", "reboot"]
    # It was blacklisted when this boot began: another one would change nothing.
    again = replace(probe, driver=replace(probe.driver, blacklisted_at_boot=True))
    (command,) = restart(again)
    assert is_refusal(command)


def test_one_reboot_where_the_reload_was_refused_by_the_kernel() -> None:
    assert [command.function.__name__ for command in restart(stale())] == ["step", "reboot"]


@pytest.mark.parametrize("value", ["ask", "never"])
def test_no_reboot_where_the_settings_leave_it_to_a_person(value: str) -> None:
    (command,) = restart(stale(), driver_reboot=value)
    assert is_refusal(command)
    assert "reboot pending" in title(command)


def test_no_reboot_of_a_host_that_others_use() -> None:
    probe = stale(system=System(workloads=("docker-4f.scope",)))
    (command,) = restart(probe)
    assert is_refusal(command)
    assert "reboot pending" in title(command)
    assert "docker-4f.scope" in str(command.args)


def test_no_reboot_of_a_healthy_host() -> None:
    assert restart(bare("T4", driver=working("T4"))) == []


def test_only_named_strangers_are_stopped_each_unit_once() -> None:
    held = replace(working("T4", version="570.211.01"), holders=(STRANGER, STRANGER))
    probe = bare("T4", driver=held)
    settings = Settings(driver_branch=580, driver_stop_others=("jupyter",))
    commands = list(driver.install._inner(probe, plan(probe, settings), settings))
    stops = [line for line in titles(commands) if "stops" in line]
    assert stops == ["driver: stops jupyter.service, as driver_stop_others says"]


def test_a_process_that_was_named_is_ended_alone_and_never_its_login() -> None:
    mine = GpuHolder(77, "python3", "maria", 60, "ssh.service")
    probe = bare("T4", driver=working("T4", version="570.211.01", holders=(mine,)))
    refused = plan(probe, Settings(driver_branch=580))
    assert refused.fix.endswith("driver_stop_others to: python3")
    settings = Settings(driver_branch=580, driver_stop_others=("python3",))
    commands = list(driver.install._inner(probe, plan(probe, settings), settings))
    stop = next(command for command in commands if "stops" in title(command))
    assert "python3 (pid 77)" in title(stop)
    assert "UNIT=''" in stop.args[2]


def test_the_watch_that_looks_at_the_gpus_is_no_stranger() -> None:
    look = GpuHolder(99, "nvidia-smi", "root", 0, "r1fleet-watch.service")
    probe = bare("T4", driver=working("T4", version="570.211.01", holders=(look,)))
    assert plan(probe, Settings(driver_branch=580)).action == "change"


def test_stopped_units_are_started_again() -> None:
    (command,) = driver.activate._inner(stale(), plan(bare("T4"), Settings()), {"jupyter.service"})
    assert "RESTART=jupyter.service" in command.args[2]


def test_what_was_there_is_noted_before_a_change() -> None:
    probe = bare("T4", packages={"nvidia-driver-cuda": "570.1-1", "libcuda1": "570.1-1", "x": "1"})
    settings = Settings()
    commands = list(driver.install._inner(probe, plan(probe, settings), settings))
    note = next(command for command in commands if "notes" in title(command))
    before = json.loads(note.kwargs["stdin"])["before"]
    assert before == {"nvidia-driver-cuda": "570.1-1", "libcuda1": "570.1-1"}


def test_a_foreign_driver_that_does_not_work_fails_the_host_by_name() -> None:
    probe = bare("T4", virtualisation="lxc")
    (command,) = driver.install._inner(probe, plan(probe, Settings()), Settings())
    assert is_refusal(command)
    assert "container" in title(command)


def test_holding_packages_loads_and_reboots_nothing() -> None:
    probe = bare("T4", driver=working("T4"), packages={"nvidia-driver-cuda": f"{NEW}-1"})
    settings = Settings(driver_hold=True)
    found = plan(probe, settings)
    assert list(driver.activate._inner(probe, found)) == []
    assert list(driver.restart._inner(probe, found, settings)) == []


def test_holding_packages_keeps_no_request_away() -> None:
    units = {UNIT: RUNNING}
    probe = bare(
        "T4", driver=working("T4"), packages={"nvidia-driver-cuda": f"{NEW}-1"}, units=units
    )
    settings = Settings(driver_hold=True)
    host: Any = SimpleNamespace(name="h", state=SimpleNamespace(is_executing=True))
    run = HostRun(host, settings, probe)
    told = [title(one) for one in stages.driver_proven(run, probe, plan(probe, settings))]
    assert told
    assert not any("holds new requests back" in line for line in told)


def test_prove_fails_a_host_whose_gpu_is_missing() -> None:
    probe = bare("T4", "T4", driver=working("T4"))
    (command,) = driver.prove._inner(probe, Settings())
    assert "1 of 2 GPUs" in title(command)
    assert list(driver.prove._inner(bare("T4", driver=working("T4")), Settings())) == []


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A fresh list of turns; the naps that were taken instead of sleeping."""
    naps: list[float] = []
    monkeypatch.setattr(outcome, "_outcomes", {})
    monkeypatch.setattr(turn, "_taken", [])
    monkeypatch.setattr(turn.time, "sleep", naps.append)
    return naps


def ask(name: str, at_once: int = 1) -> bool:
    host: Any = SimpleNamespace(name=name, print_prefix="")
    command = turn.take_turn("driver", "waits for its turn", at_once)
    state: Any = None
    return bool(command.function(state, host, *command.args, **command.kwargs))


def test_a_serving_host_waits_until_the_one_before_is_proven(
    turns: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("a")
    assert turns == []

    def nap(seconds: float) -> None:
        turns.append(seconds)
        outcome.of("a").done = len(turns) == 3

    monkeypatch.setattr(turn.time, "sleep", nap)
    assert ask("b")
    assert len(turns) == 3


def test_two_at_once_do_not_wait_for_each_other(turns: list[float]) -> None:
    assert ask("a", 2)
    assert ask("b", 2)
    assert turns == []


def test_nobody_is_rebooted_behind_a_host_that_did_not_come_back(turns: list[float]) -> None:
    assert ask("a")
    outcome.of("a").failure = "not back"
    assert not ask("b")
    assert "a did not come back" in str(outcome.of("b").failure)
    assert ask("c", 2)


def test_only_serving_hosts_take_turns() -> None:
    settings = Settings()
    found = plan(bare("T4"), settings)
    names = [
        [
            command.function.__name__
            for command in driver.restart._inner(stale(), found, settings, s)
        ]
        for s in (False, True)
    ]
    assert names == [["step", "reboot"], ["take_turn", "step", "reboot"]]


def test_the_machine_that_runs_it_is_not_rebooted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "own_boot_id", lambda: "b0")
    (command,) = restart(stale())
    assert is_refusal(command)
    assert "reboot pending" in title(command)


def test_a_host_that_comes_back_with_another_key_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect() -> None:
        raise ConnectError("SSH host key error (Host key for gpu1 does not match.)")

    host: Any = SimpleNamespace(
        name="gpu1",
        print_prefix="",
        connector=SimpleNamespace(client=None, connect=connect),
    )
    monkeypatch.setattr(reboot_module, "run", lambda *_, **__: Result(True, "", ""))
    monkeypatch.setattr(reboot_module.time, "sleep", lambda _: None)
    command = reboot_module.reboot("driver", "reboots", "boot-1", 3600)
    assert command.function(None, host, *command.args, **command.kwargs) is False
    failure = outcome.of("gpu1").failure or ""
    outcome.forget("gpu1")
    assert "it came back with another SSH host key" in failure
    assert "ssh-keygen -R" in failure
