"""The simulated hardware and kernel commands of the lab, on trees in temporary folders."""

import shutil
from pathlib import Path

import pytest

from lab import hardware, spec
from lab.services import resolvers
from lab.shell import LabError
from tests.unit.lab_tree import OPEN, PROPRIETARY, VERSION, LabTree

BLACKWELL = spec.GpuSpec(
    name="NVIDIA GeForce RTX 5090", pci="10de:2b85", memory_mib=32607, compute_capability="12.0"
)


@pytest.fixture
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> LabTree:
    return LabTree(tmp_path / "root", getattr(request, "param", "t4"))


def display_devices(tree: LabTree) -> list[str]:
    """What a driver stage counts: NVIDIA's own functions of the display classes."""
    return sorted(
        device.name
        for device in (tree.root / "sys/bus/pci/devices").iterdir()
        if (device / "vendor").read_text() == "0x10de\n"
        and (device / "class").read_text().startswith(("0x0300", "0x0302"))
    )


@pytest.mark.parametrize(
    ("name", "count"), [("t4", 1), ("rtx3090", 1), ("duo", 2), ("h100", 1), ("old", 1), ("cpu", 0)]
)
def test_gpus_on_the_pci_bus(tmp_path: Path, name: str, count: int) -> None:
    assert len(display_devices(LabTree(tmp_path / "root", name))) == count


def test_pci_device_has_every_file_the_probe_reads(tree: LabTree) -> None:
    device = tree.root / "sys/bus/pci/devices/0000:01:00.0"
    facts = {
        name: (device / name).read_text().strip()
        for name in ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
    }
    assert list(facts.values()) == ["0x10de", "0x1eb8", "0x10de", "0x12a2", "0x030200"]
    modalias = (device / "modalias").read_text()
    assert modalias == "pci:v000010DEd00001EB8sv000010DEsd000012A2bc03sc02i00\n"
    start, end, flags = (device / "resource").read_text().splitlines()[1].split()
    assert int(end, 16) - int(start, 16) + 1 == 16384 * 1024 * 1024
    assert int(flags, 16) & 0x2000
    assert not (device / "driver").exists()


@pytest.mark.parametrize("tree", ["duo"], indirect=True)
def test_geforce_cards_have_an_audio_function(tree: LabTree) -> None:
    device = tree.root / "sys/bus/pci/devices"
    assert (device / "0000:02:00.0/class").read_text() == "0x030000\n"
    assert (device / "0000:02:00.1/class").read_text() == "0x040300\n"


def test_tree_is_the_same_every_time_and_forgets_modules(tmp_path: Path) -> None:
    lab = spec.load()
    facts = []
    for _ in range(2):
        hardware.write_tree("duo", lab.hosts["duo"], lab.gpus_of("duo"), tmp_path / "sim")
        facts.append((tmp_path / "sim/lab/gpus").read_text())
        (tmp_path / "sim/module/nvidia").mkdir(exist_ok=False)
    assert facts[0] == facts[1]
    assert (
        facts[0].splitlines()[1].startswith("1|0000:02:00.0|NVIDIA GeForce RTX 4090|24564|8.9|GPU-")
    )
    assert facts[0].splitlines()[1].endswith("|10de:2684|10de:165b|")


def test_memory_is_that_of_the_lab_file(tree: LabTree) -> None:
    lines = (tree.root / "proc/meminfo").read_text().splitlines()
    assert lines[0] == "MemTotal:       67108864 kB"
    assert any(line.startswith("MemAvailable:") for line in lines)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-r"], "6.1.0-44-amd64"),
        (["-m"], "x86_64"),
        ([], "Linux"),
        (["-sr"], "Linux 6.1.0-44-amd64"),
        (["-n", "-m"], "t4 x86_64"),
        (["-a"], "Linux t4 6.1.0-44-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026-03-09) "
                 "x86_64 GNU/Linux"),
    ],
)  # fmt: skip
def test_uname(tree: LabTree, args: list[str], expected: str) -> None:
    assert tree.run("uname", *args).stdout == expected + "\n"


def test_host_passes_for_bare_metal(tree: LabTree) -> None:
    assert (tree.run("systemd-detect-virt").stdout, tree.run("nproc").stdout) == ("none\n", "16\n")
    assert tree.run("systemd-detect-virt", "-c").returncode == 1
    assert "microsoft" not in (tree.root / "proc/version").read_text().lower()


@pytest.mark.parametrize(
    "command", sorted({*hardware.SIMULATED_COMMANDS, "update-initramfs", "boot", "nvidia-smi"})
)
def test_every_command_says_that_it_is_simulated(tree: LabTree, command: str) -> None:
    option = "--help" if command == "nvidia-smi" else "--version"
    assert "simulated" in tree.run(command, option).stdout


def test_modprobe_without_module_on_disk(tree: LabTree) -> None:
    result = tree.run("modprobe", "nvidia")
    assert result.returncode == 1
    expected = f"Module nvidia not found in directory /lib/modules/{tree.kernel}\n"
    assert result.stderr == f"modprobe: FATAL: {expected}"


def test_modprobe_shows_what_the_driver_shows(tree: LabTree) -> None:
    tree.install()
    assert tree.run("modprobe", "nvidia-uvm").returncode == 0
    assert tree.loaded() == {"nvidia", "nvidia_uvm"}
    assert (tree.root / "sys/module/nvidia/version").read_text() == f"{VERSION}\n"
    assert (tree.root / "sys/module/nvidia/refcnt").read_text() == "1\n"
    version = (tree.root / "proc/driver/nvidia/version").read_text()
    assert "NVIDIA UNIX Open Kernel Module for x86_64" in version
    assert (tree.root / "proc/driver/nvidia/gpus/0000:01:00.0/information").exists()
    assert tree.driver_of("0000:01:00.0") == "nvidia"
    nodes = {node.name for node in (tree.root / "dev").iterdir()}
    assert nodes == {"nvidiactl", "nvidia0", "nvidia-uvm", "nvidia-uvm-tools"}


@pytest.mark.parametrize(
    ("name", "cards", "license_", "version", "works"),
    [
        ("t4", None, OPEN, VERSION, True),
        ("t4", None, PROPRIETARY, VERSION, True),
        ("old", None, OPEN, VERSION, False),
        ("old", None, PROPRIETARY, VERSION, True),
        ("old", None, PROPRIETARY, "595.45.04", False),
        ("t4", (BLACKWELL,), PROPRIETARY, VERSION, False),
        ("t4", (BLACKWELL,), OPEN, VERSION, True),
        ("t4", (BLACKWELL,), OPEN, "550.163.01", False),
        ("cpu", None, OPEN, VERSION, False),
    ],
)
def test_flavour_and_branch_must_suit_the_card(
    tmp_path: Path,
    name: str,
    cards: tuple[spec.GpuSpec, ...] | None,
    license_: str,
    version: str,
    works: bool,
) -> None:
    tree = LabTree(tmp_path / "root", name, cards)
    tree.install(license_, version)
    result = tree.run("modprobe", "nvidia")
    assert (result.returncode == 0) is works
    if not works:
        assert result.stderr == "modprobe: ERROR: could not insert 'nvidia': No such device\n"
        assert tree.loaded() == set()


@pytest.mark.parametrize("tree", ["rtx3090"], indirect=True)
def test_nouveau_keeps_the_card_until_a_boot_with_blacklist(tree: LabTree, tmp_path: Path) -> None:
    tree.install_nouveau()
    tree.run("boot")
    assert tree.driver_of("0000:01:00.0") == "nouveau"
    tree.install()
    assert "No such device" in tree.run("modprobe", "nvidia").stderr
    assert "is in use" in tree.run("rmmod", "nouveau").stderr

    (tree.root / "etc/modprobe.d/x.conf").write_text("# why\nblacklist nouveau\n")
    forget(tree, tmp_path)
    tree.run("boot")
    assert tree.loaded() == {"nvidia"}
    assert tree.driver_of("0000:01:00.0") == "nvidia"


def forget(tree: LabTree, tmp_path: Path) -> None:
    """What the supervisor does before a boot: fresh kernel files."""
    for place, source in (("sys/module", "module"), ("sys/bus/pci/devices", "pci")):
        shutil.rmtree(tree.root / place)
        shutil.copytree(tmp_path / "sim" / source, tree.root / place)


def test_boot_loads_what_is_installed_and_listed(tree: LabTree) -> None:
    tree.run("boot")
    assert tree.loaded() == set()
    tree.install()
    (tree.root / "etc/modprobe.d/options.conf").write_text("options nvidia NVreg_X=1\n")
    (tree.root / "etc/modules-load.d/nvidia.conf").write_text("# list\nnvidia\nnvidia-uvm\n")
    assert tree.run("boot").stderr == ""
    assert tree.loaded() == {"nvidia", "nvidia_uvm"}


def test_rmmod_minds_the_reference_counts(tree: LabTree) -> None:
    tree.install()
    tree.run("modprobe", "-a", "nvidia", "nvidia_uvm")
    in_use = tree.run("rmmod", "nvidia")
    assert in_use.stderr == "rmmod: ERROR: Module nvidia is in use by: nvidia_uvm\n"
    tree.add_process(77, "llama-server", R1LAB_VRAM="0=100")
    assert "in use" in tree.run("rmmod", "nvidia_uvm").stderr
    assert (tree.root / "sys/module/nvidia_uvm/refcnt").read_text() == "1\n"
    shutil.rmtree(tree.root / "proc/77")
    assert tree.run("rmmod", "nvidia_uvm", "nvidia").returncode == 0
    assert tree.loaded() == set()
    assert tree.driver_of("0000:01:00.0") is None
    assert "not currently loaded" in tree.run("rmmod", "nvidia").stderr


def test_modinfo_reads_the_disk(tree: LabTree) -> None:
    missing = tree.run("modinfo", "-F", "version", "nvidia")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "modinfo: ERROR: Module nvidia not found.\n"
    tree.install(PROPRIETARY)
    assert tree.run("modinfo", "-F", "version", "nvidia").stdout == f"{VERSION}\n"
    assert (
        tree.run("modinfo", "-k", tree.kernel, "-F", "license", "nvidia_uvm").stdout == "NVIDIA\n"
    )
    assert tree.run("modinfo", "-k", "6.99", "-F", "version", "nvidia").returncode == 1


def test_lsmod_lists_holders(tree: LabTree) -> None:
    tree.install()
    tree.run("modprobe", "nvidia-uvm")
    rows = [line.split() for line in tree.run("lsmod").stdout.splitlines()[1:]]
    assert rows == [["nvidia", "61440", "1", "nvidia_uvm"], ["nvidia_uvm", "61440", "0"]]


def test_resolvers_of_the_package_proxy() -> None:
    text = "# made by hand\nsearch lan\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    assert resolvers(text) == ["192.0.2.1", "[2001:db8::1]"]
    with pytest.raises(LabError, match="name server"):
        resolvers("search lan\n")
