"""The memory formula beside llama.cpp's own projection and gguf-parser-go's, and the speed of
planning: python bench/sizing.py [SEED]"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab.engine.build import EngineDir, ensure
from lab.oracle import project
from r1fleet import catalog, memory
from r1fleet.catalog import KvType
from r1fleet.memory import MIB, Load
from r1fleet.sizing import Gpu, Hardware, Policy, choose

SIZES = ("1.5b", "7b", "8b", "14b", "32b", "70b")
CONTEXTS, PARALLEL = (4096, 8192, 32768), (1, 4)
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")
ROOMY_MIB = 1_000_000
HOSTS = 10_000


@dataclass(frozen=True)
class Case:
    size: str
    context: int
    parallel: int
    kv_type: KvType

    @property
    def batch(self) -> int:
        return memory.batch(0, 0, self.context * self.parallel)

    @property
    def ours_mib(self) -> float:
        model = catalog.find_tag(self.size)
        load = Load(self.context, self.parallel, self.kv_type, self.batch)
        return (sum(memory.blocks(model, load)) + memory.compute(model.shape, load)) / MIB

    def llama_mib(self, engine: EngineDir) -> int:
        return project(
            engine,
            engine.shapes / f"{self.size}.gguf",
            [ROOMY_MIB],
            context=self.context,
            parallel=self.parallel,
            batch=self.batch,
            kv_type=self.kv_type,
        ).projected_mib


def main(seed: int) -> None:
    engine = ensure(print)
    cases = [Case(*words) for words in product(SIZES, CONTEXTS, PARALLEL, KV_TYPES)]
    compare(engine, cases, gguf_parser(engine, cases))
    plan_many(Random(seed))


def gguf_parser(engine: EngineDir, cases: list[Case]) -> list[float] | None:
    """MiB by gguf-parser-go for the same files; None when it cannot be built here."""
    words = "\n".join(
        f"{engine.shapes / case.size}.gguf {case.context * case.parallel} {case.parallel} "
        f"{case.batch} {case.kv_type}"
        for case in cases
    )
    with tempfile.TemporaryDirectory() as folder:
        tool = Path(folder) / "ggufparser"
        source = Path(__file__).parent / "ggufparser"
        try:
            subprocess.run(["go", "build", "-o", tool, "."], cwd=source, check=True)
            done = subprocess.run([tool], input=words, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"gguf-parser-go cannot be had here: {error}")
            return None
    return [float(line) for line in done.stdout.split()]


def compare(engine: EngineDir, cases: list[Case], others: list[float] | None) -> None:
    print("tag   context parallel cache  llama.cpp   formula         gguf-parser-go   (MiB)")
    ours, theirs = [], []
    for index, case in enumerate(cases):
        truth = case.llama_mib(engine)
        ours.append((case.ours_mib - truth, 100 * (case.ours_mib - truth) / truth))
        line = f"{case.size:5} {case.context:7} {case.parallel:8} {case.kv_type:5} {truth:10}"
        line += f" {case.ours_mib:10.1f} {ours[-1][1]:+6.2f} %"
        if others:
            theirs.append(100 * (others[index] - truth) / truth)
            line += f" {others[index]:10.1f} {theirs[-1]:+6.2f} %"
        print(line)
    worst = max(abs(mib) for mib, _ in ours)
    percents = [percent for _, percent in ours]
    print(f"formula: {min(percents):+.2f} to {max(percents):+.2f} %, at most {worst:.1f} MiB off")
    if theirs:
        print(f"gguf-parser-go: {min(theirs):+.2f} to {max(theirs):+.2f} %")


def plan_many(random: Random) -> None:
    known = [gpu for gpu in catalog.gpus() if gpu.vram_mib]
    hosts = [_host(random, known) for _ in range(HOSTS)]
    started = time.perf_counter()
    chosen = [choose(host, Policy()).choice for host in hosts]
    seconds = time.perf_counter() - started
    print(
        f"{HOSTS} hosts ({len(set(hosts))} different) planned in {seconds:.2f} s, "
        f"{sum(1 for choice in chosen if choice)} get a model"
    )


def _host(random: Random, known: list[catalog.GpuInfo]) -> Hardware:
    """1 to 8 cards of the catalogue, mostly equal ones."""
    count = random.choice((1, 1, 1, 2, 2, 4, 8))
    cards = [random.choice(known)] * count
    if random.random() < 0.2:
        cards = [random.choice(known) for _ in range(count)]
    gpus = tuple(
        Gpu(index, card.name, card.vram_mib or 0, card.compute_capability, card.bandwidth_gb_s)
        for index, card in enumerate(cards)
    )
    return Hardware(gpus, random.choice((32, 64, 128, 256, 512)) * 1000, 16)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
