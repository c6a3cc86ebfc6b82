"""The lab file, and what is checked before the lab touches a machine; nothing is booted."""

import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from lab import base, cgroups, checks, hosts, network, state
from lab.paths import BRIDGE, GATEWAY, NAME, NETWORK
from lab.shell import LabError, Refusal, run
from lab.spec import GpuSpec, HostSpec, LabSpec, SpecError, load

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.setenv("R1_CACHE_DIR", str(tmp_path / "cache"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    return path


def many_hosts(count: int) -> LabSpec:
    return LabSpec(gpus={}, hosts={f"h{index}": HostSpec() for index in range(count)})


class TestSpec:
    def test_default_lab_has_six_listed_hosts_of_both_releases(self) -> None:
        spec = load()
        listed = [name for name, host in spec.hosts.items() if host.listed]
        assert listed == ["t4", "rtx3090", "duo", "h100", "old", "cpu"]
        assert {host.release for host in spec.hosts.values()} == {"bookworm", "trixie"}
        assert [gpu.memory_mib for gpu in spec.gpus_of("duo")] == [24564, 24564]
        assert spec.gpus_of("cpu") == ()

    def test_other_file_uses_known_cards_and_its_own(self, tmp_path: Path) -> None:
        text = """
        gpus: {own: {name: Own, pci: "10de:1234", memory_mib: 100, compute_capability: "9.0"}}
        hosts: {a: {gpus: [own, t4]}}
        """
        assert [gpu.name for gpu in load(write(tmp_path, text)).gpus_of("a")] == ["Own", "Tesla T4"]

    def test_unknown_card_names_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"hosts\.a\.gpus: no card 'nope'; known: .*rtx3090"):
            load(write(tmp_path, "hosts: {a: {gpus: [nope]}}"))

    def test_every_fault_is_a_line_of_its_own(self, tmp_path: Path) -> None:
        text = "hosts: {a: {memory_mib: -1, colour: red}, Bad_Name: {}}"
        with pytest.raises(SpecError) as caught:
            load(write(tmp_path, text))
        lines = str(caught.value).split("\n")
        assert len(lines) == 3
        assert all(str(tmp_path) in line for line in lines)

    @pytest.mark.parametrize("text", ["", "[]", "hosts: [", "gpus: 3\nhosts: {}"])
    def test_what_is_no_lab_file_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(SpecError, match="cannot be read as a lab file"):
            load(write(tmp_path, text))


class TestAddresses:
    def test_follow_the_order_of_the_file(self) -> None:
        assert hosts.assign_addresses(["a", "b"], {}) == {"a": "198.18.77.11", "b": "198.18.77.12"}

    def test_a_host_keeps_its_address_when_another_comes_before_it(self) -> None:
        given = hosts.assign_addresses(["new", "a"], {"a": "198.18.77.11"})
        assert given == {"a": "198.18.77.11", "new": "198.18.77.12"}

    def test_all_are_different_up_to_the_capacity(self) -> None:
        names = [f"h{index}" for index in range(hosts.CAPACITY)]
        given = hosts.assign_addresses(names, {"h5": "198.18.77.11"})
        assert len(set(given.values())) == hosts.CAPACITY

    def test_interface_names_fit_the_kernel(self) -> None:
        assert network.interface(str(NETWORK[254])) == f"vb-{NAME}254"
        assert len(network.interface(str(NETWORK[254]))) <= 15


class TestNetwork:
    @staticmethod
    def routes(monkeypatch: pytest.MonkeyPatch, text: str, bridge: str = "") -> list[str]:
        def answer(*command: str) -> str:
            if "route" in command:
                return text
            if not bridge:
                raise LabError("does not exist")
            return f'[{{"address": "{bridge}"}}]'

        monkeypatch.setattr(network, "run", answer)
        return network.conflicts()

    def test_ordinary_routes_are_no_conflict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = '[{"dst":"default","dev":"eth0"},{"dst":"192.0.2.0/24","dev":"eth0"}]'
        assert self.routes(monkeypatch, text) == []

    def test_a_vpn_for_everything_is_no_conflict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.routes(monkeypatch, '[{"dst":"128.0.0.0/1","dev":"tun0"}]') == []

    @pytest.mark.parametrize("target", ["198.18.0.0/15", "198.18.77.0/24", "198.18.77.40"])
    def test_a_busy_range_is_named(self, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        (line,) = self.routes(monkeypatch, f'[{{"dst":"{target}","dev":"tun0"}}]')
        assert "tun0" in line
        assert target in line

    def test_the_lab_is_not_in_its_own_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = f'[{{"dst":"198.18.77.0/24","dev":"{BRIDGE}"}}]'
        assert self.routes(monkeypatch, text, network.BRIDGE_MAC) == []

    def test_a_foreign_bridge_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (line,) = self.routes(monkeypatch, "[]", "02:00:00:00:00:99")
        assert line.startswith(f"the interface {BRIDGE} exists and is not the lab's")


class TestChecks:
    @pytest.fixture(autouse=True)
    def _a_good_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "_system", list)
        monkeypatch.setattr(checks, "find_base", lambda release: None)
        monkeypatch.setattr(network, "conflicts", list)
        monkeypatch.setattr(network, "is_up", lambda: False)
        for port in ("REGISTRY_PORT", "ARTIFACT_PORT", "APT_PROXY_PORT"):
            monkeypatch.setattr(checks, port, 0)  # whichever is free

    def test_a_good_machine_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
        checks.preflight(load())

    def test_disk_is_refused_with_both_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**9))
        with pytest.raises(Refusal, match=r"needs 8\.4 GB, 1\.0 GB are free"):
            checks.preflight(load())

    def test_too_many_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
        with pytest.raises(Refusal, match="has 300 hosts, the network has room for 244"):
            checks.preflight(many_hosts(300))

    def test_a_port_held_on_all_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as holder:
            holder.bind(("0.0.0.0", 0))
            holder.listen()
            port = holder.getsockname()[1]
            monkeypatch.setattr(checks, "ARTIFACT_PORT", port)
            monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
            with pytest.raises(Refusal, match=f"port {port} is in use on all addresses"):
                checks.preflight(load())

    def test_not_linux(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.system", lambda: "Darwin")
        with pytest.raises(Refusal, match="this is Darwin; run it on a Linux machine"):
            checks.require_linux()

    def test_missing_programs_without_apt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda program: None)
        with pytest.raises(Refusal, match=r"missing programs: systemd-nspawn.*no apt-get"):
            checks.install_programs(lambda message: None)

    def test_programs_are_installed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[tuple[str, ...]] = []
        monkeypatch.setattr(
            shutil, "which", lambda program: None if program == "zstd" else f"/usr/bin/{program}"
        )
        monkeypatch.setattr(checks, "run", lambda *command, **_: done.append(command))
        monkeypatch.setitem(checks.PROGRAMS, "/usr/share/keyrings/debian-archive-keyring.gpg", "x")
        monkeypatch.setattr(Path, "exists", lambda self: True)
        checks.install_programs(lambda message: None)
        assert [command[:2] for command in done] == [("apt-get", "update"), ("apt-get", "install")]
        assert done[1][-1] == "zstd"

    @pytest.mark.parametrize("booted", [True, False])
    def test_services_are_switched_off_only_where_systemd_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, booted: bool
    ) -> None:
        """A container has systemctl too, and it fails there."""
        done: list[tuple[str, ...]] = []
        monkeypatch.setattr(checks, "missing_programs", lambda: {"nginx": "nginx-light"})
        monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
        monkeypatch.setattr(checks, "run", lambda *command, **_: done.append(command))
        monkeypatch.setattr(checks, "SYSTEMD_RUNS", tmp_path if booted else tmp_path / "none")
        checks.install_programs(lambda message: None)
        assert [command[0] for command in done[2:]] == (["systemctl"] if booted else [])


class TestSystem:
    def test_a_name_mounts_cannot_carry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("R1_LAB_DIR", "/var/lib/a:b")
        assert any("/var/lib/a:b" in line for line in checks._system())

    def test_no_control_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cgroups, "ROOT", tmp_path)
        assert any("no control groups" in line for line in checks._system())


class TestCgroups:
    def test_version_2_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cgroups, "ROOT", tmp_path)
        (tmp_path / "cgroup.procs").touch()
        assert cgroups.hierarchies() == [tmp_path]

    def test_members_of_nested_groups(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cgroups, "ROOT", tmp_path)
        for name in ("systemd", "unified"):
            nested = tmp_path / name / "r1lab/t4/payload"
            nested.mkdir(parents=True)
            (tmp_path / name / "cgroup.procs").touch()
            (nested / "cgroup.procs").write_text("7\n8\n")
            (nested.parent / "cgroup.procs").write_text("6\n")
        assert cgroups.names() == ["t4"]
        assert cgroups.members("t4") == {6, 7, 8}
        assert cgroups.members("duo") == set()


class TestState:
    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        assert state.LabState.load() is None
        state.claim()
        made = state.LabState(
            hosts={"t4": state.HostState(address="198.18.77.11", release="bookworm", gpus=("T4",))},
            artifact_url=f"http://{GATEWAY}:8080",
            registry_url=f"http://{GATEWAY}:5000",
            driver_repository_url="http://r",
            driver_keyring_sha256={"bookworm": "0" * 64},
            engine_version="0",
            engine_sha256="0" * 64,
            engine_url="http://e",
            gateway_version="0",
            gateway_sha512="0" * 128,
            model_digests={"deepseek-r1:14b": "sha256:0"},
            key=tmp_path / "key",
            known_hosts=tmp_path / "known_hosts",
        )
        made.save()
        assert state.LabState.load() == made
        state.release()
        assert not (tmp_path / "lab").exists()

    def test_a_folder_of_somebody_else_is_never_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "lab").mkdir()
        (tmp_path / "lab/thesis.txt").touch()
        with pytest.raises(Refusal, match="holds files that are not the lab's"):
            state.claim()
        state.release()
        assert (tmp_path / "lab/thesis.txt").exists()


def test_only_what_nspawn_covers_is_mounted_by_the_host() -> None:
    assert base.is_mounted_inside("/proc/meminfo")
    assert base.is_mounted_inside("/sys/bus/pci/devices")
    assert not base.is_mounted_inside("/sys/module")
    assert not base.is_mounted_inside("/usr/lib/r1lab/bin")


def test_an_unknown_host_names_those_that_exist() -> None:
    with pytest.raises(Refusal, match="no host 't5'; hosts: none"):
        hosts.get("t5")


def test_a_failing_program_is_one_line() -> None:
    with pytest.raises(LabError, match=r"^sh -c 'echo no >&2; exit 3': exit 3: no$"):
        run("sh", "-c", "echo no >&2; exit 3")
    with pytest.raises(LabError, match="nope-nope is not installed"):
        run("nope-nope")


def test_a_card_is_described_by_hexadecimal_ids() -> None:
    with pytest.raises(ValueError, match="pattern"):
        GpuSpec(name="x", pci="10DE:1", memory_mib=1, compute_capability="9.0")
