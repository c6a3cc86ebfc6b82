"""The simulated nvidia-smi: exit codes, queries and memory, on trees in temporary folders."""

from pathlib import Path

import pytest

from tests.unit.lab_tree import PROPRIETARY, VERSION, LabTree

FIELDS = (
    "index,name,uuid,pci.bus_id,pci.device_id,pci.sub_device_id,driver_version,memory.total,"
    "memory.reserved,memory.used,memory.free,compute_cap,ecc.mode.current,ecc.mode.pending,"
    "ecc.errors.uncorrected.volatile.total,remapped_rows.pending,remapped_rows.failure,"
    "retired_pages.pending,mig.mode.current,mig.mode.pending,persistence_mode,"
    "reset_status.reset_required,vbios_version,gsp.mode.current,fabric.state,fabric.status,"
    "addressing_mode"
)
BARE = "--format=csv,noheader,nounits"


@pytest.fixture
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> LabTree:
    """A host whose driver is installed and loaded."""
    tree = LabTree(tmp_path / "root", getattr(request, "param", "t4"))
    tree.install(PROPRIETARY)
    assert tree.run("modprobe", "nvidia").returncode == 0
    return tree


def query(tree: LabTree, fields: str) -> list[list[str]]:
    result = tree.run("nvidia-smi", f"--query-gpu={fields}", BARE)
    assert (result.returncode, result.stderr) == (0, "")
    return [line.split(", ") for line in result.stdout.splitlines()]


def test_all_fields_of_a_data_centre_card(tree: LabTree) -> None:
    rows = query(tree, FIELDS)
    assert len(rows) == 1
    row = dict(zip(FIELDS.split(","), rows[0], strict=True))
    assert row["uuid"].startswith("GPU-")
    assert row["pci.bus_id"] == "00000000:01:00.0"
    assert row["pci.device_id"] == "0x1EB810DE"
    assert row["pci.sub_device_id"] == "0x12A210DE"
    assert (row["name"], row["driver_version"]) == ("Tesla T4", VERSION)
    assert (row["memory.total"], row["compute_cap"]) == ("15360", "7.5")
    assert (row["ecc.mode.current"], row["mig.mode.current"]) == ("Enabled", "[N/A]")
    memory = [int(row[f"memory.{kind}"]) for kind in ("reserved", "used", "free")]
    assert sum(memory) == 15360


@pytest.mark.parametrize("tree", ["duo"], indirect=True)
def test_one_row_per_card_and_a_card_can_be_chosen(tree: LabTree) -> None:
    assert query(tree, "index,memory.total,ecc.mode.current") == [
        ["0", "24564", "[N/A]"],
        ["1", "24564", "[N/A]"],
    ]
    assert tree.run("nvidia-smi", "-i", "1", "--query-gpu=index", BARE).stdout == "1\n"
    listed = tree.run("nvidia-smi", "-L").stdout.splitlines()
    assert [line.split(" (UUID: GPU-")[0] for line in listed] == [
        "GPU 0: NVIDIA GeForce RTX 4090",
        "GPU 1: NVIDIA GeForce RTX 4090",
    ]


def test_header_and_units(tree: LabTree) -> None:
    result = tree.run(
        "nvidia-smi", "--query-gpu=name,memory.total,mig.mode.current", "--format=csv"
    )
    assert result.stdout == (
        "name, memory.total [MiB], mig.mode.current\nTesla T4, 15360 MiB, [N/A]\n"
    )


def test_table_names_the_cuda_version(tree: LabTree) -> None:
    result = tree.run("nvidia-smi")
    assert result.returncode == 0
    assert "CUDA Version: 13.0" in result.stdout
    assert "simulated" in result.stdout


@pytest.mark.parametrize("args", [["--bogus"], ["--query-gpu=index"], ["-L", "--format=csv"]])
def test_bad_arguments(tree: LabTree, args: list[str]) -> None:
    assert tree.run("nvidia-smi", *args).returncode == 2


def test_one_unknown_field_fails_the_query(tree: LabTree) -> None:
    result = tree.run("nvidia-smi", "--query-gpu=index,bogus.field", BARE)
    assert result.returncode == 2
    assert result.stdout == 'Field "bogus.field" is not a valid field to query.\n\n'


def test_recovery_action_came_with_570(tmp_path: Path) -> None:
    tree = LabTree(tmp_path / "root", "t4")
    tree.install(version="550.163.01")
    tree.run("modprobe", "nvidia")
    assert tree.run("nvidia-smi", "--query-gpu=gpu_recovery_action", BARE).returncode == 2


def test_driver_not_loaded(tmp_path: Path) -> None:
    tree = LabTree(tmp_path / "root", "t4")
    tree.install()
    result = tree.run("nvidia-smi")
    assert result.returncode == 9
    assert "couldn't communicate with the NVIDIA driver" in result.stdout


def test_library_missing(tree: LabTree) -> None:
    (tree.root / f"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{VERSION}").unlink()
    assert tree.run("nvidia-smi").returncode == 12


def test_upgrade_under_a_loaded_module(tree: LabTree) -> None:
    tree.install(PROPRIETARY, "580.200.01")
    result = tree.run("nvidia-smi")
    assert result.returncode == 18
    assert result.stdout == (
        "Failed to initialize NVML: Driver/library version mismatch\n"
        "NVML library version: 580.200\n"
    )


def test_no_card_left(tree: LabTree) -> None:
    (tree.root / "proc/driver/nvidia/gpus/0000:01:00.0/information").unlink()
    result = tree.run("nvidia-smi", "--query-gpu=index", BARE)
    assert (result.returncode, result.stdout) == (6, "No devices were found\n")


@pytest.mark.parametrize("tree", ["duo"], indirect=True)
def test_memory_held_by_the_engine(tree: LabTree) -> None:
    tree.add_process(412, "llama-server", PATH="/bin", R1LAB_VRAM="0=13021,1=2000")
    tree.add_process(413, "llama-server.re", R1LAB_VRAM="0=13021,1=2000")
    tree.add_process(414, "bash")
    assert query(tree, "memory.used,memory.free") == [["13022", "11191"], ["2001", "22212"]]
    fields = "pid,process_name,used_memory,gpu_bus_id"
    result = tree.run("nvidia-smi", f"--query-compute-apps={fields}", "--format=csv")
    assert result.stdout.splitlines() == [
        "pid, process_name, used_memory [MiB], gpu_bus_id",
        "412, /opt/lib/ollama/llama-server, 13021 MiB, 00000000:01:00.0",
        "412, /opt/lib/ollama/llama-server, 2000 MiB, 00000000:02:00.0",
    ]


def test_no_compute_process(tree: LabTree) -> None:
    result = tree.run("nvidia-smi", "--query-compute-apps=pid,used_memory", BARE)
    assert (result.returncode, result.stdout) == (0, "")
