"""The formula of sizing against llama.cpp itself: its own projection for files of true shape."""

from itertools import product
from random import Random

import pytest

from lab.engine.build import EngineDir, ensure
from lab.layouts import judge, random_case
from lab.oracle import project
from r1fleet import catalog, memory
from r1fleet.memory import MIB, Load

SIZES = ("1.5b", "7b", "8b", "14b", "32b", "70b")
CASES = tuple(product(SIZES, (4096, 8192, 32768), (1, 4), ("f16", "q8_0")))
ROOMY_MIB = 1_000_000


@pytest.fixture(scope="session")
def engine() -> EngineDir:
    return ensure(print)


@pytest.mark.parametrize("size", SIZES)
def test_the_files_have_the_true_sizes(engine: EngineDir, size: str) -> None:
    for quantisation in ("q4_K_M", "q8_0", "fp16"):
        name = size if quantisation == "q4_K_M" else f"{size}-{quantisation}"
        model = next(
            m for m in catalog.models() if (m.size, m.quantisation) == (size, quantisation)
        )
        file_bytes = (engine.shapes / f"{name}.gguf").stat().st_size
        assert abs(file_bytes - model.size_bytes) <= model.size_bytes / 1000, name


@pytest.mark.parametrize(("size", "context", "parallel", "kv_type"), CASES)
def test_the_formula_is_llama_cpp_s_own(
    engine: EngineDir, size: str, context: int, parallel: int, kv_type: catalog.KvType
) -> None:
    model = catalog.find_tag(size)
    batch = memory.batch(0, 0, context * parallel)
    load = Load(context, parallel, kv_type, batch)
    found = project(
        engine,
        engine.shapes / f"{size}.gguf",
        [ROOMY_MIB],
        context=context,
        parallel=parallel,
        batch=batch,
        kv_type=kv_type,
    )
    cache = model.shape.layers * memory.cache_per_layer(model.shape, load)
    ours = (sum(memory.blocks(model, load)) + memory.compute(model.shape, load)) / MIB
    assert cache // MIB == found.devices[0].kv
    assert abs(ours - found.projected_mib) <= max(found.projected_mib / 100, 64)
    assert ours >= found.projected_mib - 64


def test_what_is_chosen_for_random_hosts_fits_by_llama_cpp(engine: EngineDir) -> None:
    random = Random(7)
    verdicts = [judge(engine, *random_case(random)) for _ in range(40)]
    assert [verdict for verdict in verdicts if verdict.unfit] == []
    assert len([verdict for verdict in verdicts if verdict.missed]) <= 2
