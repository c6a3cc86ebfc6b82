"""Hosts whose GPUs are AMD's: a working ROCm is sized and served like any other."""

import hashlib
import os
import subprocess
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from r1fleet import decide, probe
from r1fleet.driver.plan import plan as plan_driver
from r1fleet.engine import wanted
from r1fleet.hardware import hardware
from r1fleet.hostfacts import Amd, AmdGpu, LoadedModel, PciDevice, Probe
from r1fleet.settings import Settings
from r1fleet.sizing import Policy, choose
from r1fleet.verify.judge import check_loaded
from tests.unit.build import bare, working

VRAM = 25_753_026_560
CARD = AmdGpu("0000:03:00.0", "744c", VRAM)
PCI = PciDevice("0000:03:00.0", "030000", "1002", "744c", "1002:0e3b", "amdgpu")
SERVED = (Path(__file__).parent / "data/probe/duo_served.txt").read_text(encoding="utf-8")


def amd_host(works: bool = True, *cards: AmdGpu) -> Probe:
    return bare(pci=(PCI,), amd=Amd(works, cards or (CARD,)))


def test_the_probe_reads_the_cards_from_sysfs(tmp_path: Path) -> None:
    """The real script, with the paths of the host moved below a folder."""
    for number, (vendor, device) in enumerate((("0x1002", "0x744c"), ("0x8086", "0x56a0"))):
        card = tmp_path / f"sys/devices/0000:0{number + 3}:00.0"
        card.mkdir(parents=True)
        (card / "vendor").write_text(f"{vendor}\n")
        (card / "device").write_text(f"{device}\n")
        (card / "mem_info_vram_total").write_text(f"{VRAM}\n")
        drm = tmp_path / f"sys/class/drm/card{number}"
        drm.mkdir(parents=True)
        (drm / "device").symlink_to(card)
        connector = tmp_path / f"sys/class/drm/card{number}-DP-1"
        connector.mkdir()
        (connector / "device").symlink_to(drm)
    script = probe.command("/nowhere/models", "http://127.0.0.1:9")
    for path in ("/sys/module/amdgpu", "/sys/class/drm", "/dev/kfd"):
        script = script.replace(path, f"{tmp_path}{path}")

    def found() -> Amd:
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        return probe.parse(done.stdout).amd

    assert found() == Amd(False, (CARD,))
    for path in ("sys/module/amdgpu", "dev/kfd"):
        (tmp_path / path).mkdir(parents=True)
    assert found() == Amd(True, (CARD,))


def test_damaged_lines_are_no_card() -> None:
    lines = "@@amd\ncard 0000:03:00.0 0x744c [N/A]\ncard\ncard a b\n"
    assert probe.parse(SERVED.replace("@@amd\n", lines)).amd.gpus == (replace(CARD, vram_bytes=0),)


def test_a_working_rocm_is_sized_by_its_vram() -> None:
    found = hardware(amd_host())
    assert found.other_gpus == ()
    (gpu,) = found.gpus
    assert (gpu.vendor, gpu.vram_mib, gpu.name) == ("amd", 24560, "AMD GPU 744c")
    chosen = choose(found, Policy()).chosen
    assert (chosen.tag, chosen.placement) == ("32b", "gpu")
    assert plan_driver(amd_host(), Settings()).action == "skip"


def test_without_a_working_rocm_or_an_archive_for_it_it_is_named_in_the_refusal() -> None:
    for host in (amd_host(False), replace(amd_host(), arch="aarch64")):
        refusal = decide.size(Settings(), host).sizing.refusal
        assert "AMD GPU 744c: no working ROCm" in str(refusal)


def test_beside_nvidia_s_it_is_left_alone() -> None:
    host = bare("T4", driver=working("T4"), amd=Amd(True, (CARD,)))
    assert [gpu.vendor for gpu in hardware(host).gpus] == ["nvidia"]
    assert decide.size(Settings(), host).sizing.chosen.tag == "14b"


def test_the_engine_gets_rocm_s_archive_and_hides_cards_by_its_variable() -> None:
    host, settings = amd_host(), Settings()
    choice = decide.size(settings, host).sizing.chosen
    engine = wanted.engine(settings, choice, host)
    assert engine.archive.key == "0.32.15-rocm"
    assert str(engine.archive.rocm_url).endswith("/ollama-linux-amd64-rocm.tar.zst")
    hiding = replace(choice, only_these_gpus=True)
    variables = dict(wanted.variables(settings, hiding, host))
    assert variables["ROCR_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in variables
    assert wanted.engine(settings, replace(choice, placement="cpu"), host).archive.rocm_url is None


def test_the_proof_asks_no_nvidia_smi_but_still_wants_all_in_vram() -> None:
    host, settings = amd_host(), Settings()
    choice = decide.size(settings, host).sizing.chosen
    digest = "sha256:" + "c3" * 32
    assert not decide.proof_wanted(settings, choice, digest, host).nvidia
    row = LoadedModel("deepseek-r1:32b", "c3" * 32, 100, 100, 16384)
    assert check_loaded(replace(host, loaded=(row,)), digest, "gpu") is None
    spilled = replace(row, size_vram_bytes=60)
    assert check_loaded(replace(host, loaded=(spilled,)), digest, "gpu")


def archive(folder: Path, name: str, member: str) -> None:
    tree = folder / f"{name}.tree"
    (tree / member).parent.mkdir(parents=True)
    (tree / member).write_text("#!/bin/sh\n")
    (tree / member).chmod(0o755)
    tar = ["tar", "--zstd", "-cf", str(folder / name), "-C", str(tree), "."]
    subprocess.run(tar, check=True, timeout=60)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    with (folder / "sha256sum.txt").open("a") as sums:
        sums.write(f"{digest}  ./{name}\n")


@pytest.mark.parametrize("damage", [False, True])
def test_both_archives_make_one_directory_or_none(tmp_path: Path, damage: bool) -> None:
    archive(tmp_path, "ollama.tar.zst", "bin/ollama")
    archive(tmp_path, "ollama-rocm.tar.zst", "lib/ollama/rocm_v7_2/libggml-hip.so")
    if damage:
        (tmp_path / "ollama-rocm.tar.zst").write_bytes(b"cut")
    script = (resources.files("r1fleet.engine") / "install.sh").read_text(encoding="ascii")
    values = {
        "URL": f"file://{tmp_path}/ollama.tar.zst",
        "ROCM_URL": f"file://{tmp_path}/ollama-rocm.tar.zst",
        "SHA256": "",
        "ROOT": str(tmp_path / "opt"),
        "KEY": "1.2.3-rocm",
    }
    done = subprocess.run(
        ["sh", "-c", script],
        env={**os.environ, **values},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    engine = tmp_path / "opt/1.2.3-rocm"
    assert (done.returncode == 0) is not damage, done.stderr
    assert (engine / "lib/ollama/rocm_v7_2/libggml-hip.so").exists() is not damage
    assert (engine / "bin/ollama").exists() is not damage
    assert not (tmp_path / "opt/.new-1.2.3-rocm").exists()
    assert ("checksum of ollama-rocm.tar.zst" in done.stderr) is damage
