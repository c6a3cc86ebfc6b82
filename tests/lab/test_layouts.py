"""Plans against the real Ollama above simulated cards, without booted hosts.

For each host of the default lab and of lab/layouts.yaml, the engine of the cache is started here
with the environment of the plan and the host's hardware in a folder (R1LAB_ROOT); it loads the
planned tag, and /api/ps must say what was planned. With -s the figures are shown.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import hardware, spec
from lab.engine import EngineDir, ensure
from lab.paths import SOURCE
from r1fleet import hardware as product
from r1fleet.engine import wanted
from r1fleet.hostfacts import MigInstance, PciDevice, Probe, SmiGpu
from r1fleet.settings import Settings
from r1fleet.sizing import choose, policy
from tests.unit.build import bare, working

pytestmark = pytest.mark.lab

MIB = 1024**2
START_S = 30.0
LAYOUTS = spec.load(SOURCE / "layouts.yaml")
DEFAULT = spec.load()
HOSTS = {**DEFAULT.hosts, **LAYOUTS.hosts}
GPUS = {**DEFAULT.gpus, **LAYOUTS.gpus}
# 671b has no file of true shape that llama.cpp could place.
SETTINGS = Settings(size_order=("70b", "32b", "14b", "8b", "7b", "1.5b"))


def rows_of(sim: Path) -> list[list[str]]:
    """The cards as the simulated kernel tells them."""
    return [line.split("|") for line in (sim / "lab/gpus").read_text().splitlines()]


def probe_of(host: spec.HostSpec, rows: list[list[str]]) -> Probe:
    """What the probe sees of the host once its driver works."""
    cards = tuple(
        SmiGpu(
            index=int(row[0]),
            name=row[2],
            uuid=row[5],
            bus_id=f"0000{row[1]}",
            driver_version="580.178.04",
            memory_total_mib=int(row[3]) or None,
            memory_used_mib=0,
            compute_capability=(int(row[4].split(".")[0]), int(row[4].split(".")[1])),
        )
        for row in rows
    )
    parts = tuple(
        MigInstance(int(row[0]), part.split("=")[0], part.split("=")[2])
        for row in rows
        for part in row[8].split(",")
        if part
    )
    devices = tuple(
        PciDevice(row[1], "030000", *row[6].split(":"), subsystem=row[7], driver="nvidia")
        for row in rows
    )
    driver = working(gpus=cards, mig=parts)
    return bare(driver=driver, pci=devices, ram_mib=host.memory_mib, cores=host.cores)


@pytest.fixture(scope="session")
def engine() -> EngineDir:
    return ensure(print)


@pytest.fixture(scope="session")
def program(engine: EngineDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's archive, unpacked: the path of ollama."""
    folder = tmp_path_factory.mktemp("engine")
    plain = subprocess.run(["zstd", "-dc", engine.archive], check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], input=plain.stdout, check=True)
    return folder / "bin/ollama"


@pytest.fixture(scope="session")
def models(engine: EngineDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's models as a model directory of Ollama."""
    folder = tmp_path_factory.mktemp("models")
    names = folder / "manifests/registry.ollama.ai/library/deepseek-r1"
    shutil.copytree(engine.models / "manifests", names)
    shutil.copytree(engine.models / "blobs", folder / "blobs")
    return folder


def make_root(engine: EngineDir, sim: Path, root: Path, cards: int) -> None:
    """A host whose driver has brought its cards up."""
    place = root / "usr/lib/r1lab"
    place.mkdir(parents=True)
    shutil.copytree(sim / "lab", place / "host")
    (place / "simgpu").symlink_to(engine.simgpu)
    (place / "shapes").symlink_to(engine.shapes)
    for folder in ("sys/module/nvidia", "dev", "proc"):
        (root / folder).mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("580.178.04\n")
    shutil.copy(sim / "meminfo", root / "proc/meminfo")
    for node in ("nvidia-uvm", *(f"nvidia{index}" for index in range(cards))):
        (root / "dev" / node).touch()


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(url, data, timeout=120) as answer:
        return json.load(answer)


@contextmanager
def serving(program: Path, variables: dict[str, str]) -> Iterator[str]:
    """The engine, answering at the URL; ended at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, **variables, "OLLAMA_HOST": address}
    process = subprocess.Popen(
        [program, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                ask(f"http://{address}/api/version")
                break
            except OSError:
                assert time.monotonic() < deadline, "the engine does not answer"
                time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("name", [name for name, host in HOSTS.items() if host.gpus])
def test_planned_residency_is_that_of_the_engine(
    name: str, engine: EngineDir, program: Path, models: Path, tmp_path: Path
) -> None:
    host = HOSTS[name]
    cards = tuple(GPUS[card] for card in host.gpus)
    sim, root = tmp_path / "sim", tmp_path / "root"
    hardware.write_tree(name, host, cards, sim)
    make_root(engine, sim, root, len(cards))
    probe = probe_of(host, rows_of(sim))
    choice = choose(product.hardware(probe), policy(SETTINGS)).chosen
    settings = SETTINGS.model_copy(update={"ollama_models": str(models)})
    variables = dict(wanted.variables(settings, choice, probe))
    with serving(program, {**variables, "R1LAB_ROOT": str(root), "HOME": str(tmp_path)}) as url:
        ask(f"{url}/api/generate", {"model": f"deepseek-r1:{choice.tag}", "stream": False})
        (row,) = ask(f"{url}/api/ps")["models"]
    planned, found = sum(choice.needed_mib), round(row["size_vram"] / MIB)
    share = 100 * row["size_vram"] / row["size"]
    figures = f"{name}: {choice.tag}, context {choice.context}, {choice.kv_type}, cards "
    figures += (
        f"{len(choice.gpus)}: planned 100 %, {planned} MiB; /api/ps {share:.0f} %, {found} MiB"
    )
    print(figures)
    assert row["size_vram"] == row["size"], figures
    assert row["context_length"] == choice.context, figures
    # The plan counts input copies that CUDA keeps on several cards and the simulated ones do not.
    assert found == pytest.approx(planned, rel=0.05), figures
