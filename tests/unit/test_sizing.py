"""Sizing: against llama.cpp's own projections, and on known hosts."""

import csv
from functools import cache
from pathlib import Path

import pytest

from r1fleet import catalog, memory
from r1fleet.memory import MIB, Load
from r1fleet.settings import read
from r1fleet.sizing import Gpu, Hardware, Policy, choose, policy

DATA = Path(__file__).parent / "data" / "projections.csv"


@cache
def projections() -> list[dict[str, str]]:
    lines = [line for line in DATA.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def model_of(row: dict[str, str]) -> catalog.ModelTag:
    return next(
        model
        for model in catalog.models()
        if (model.size, model.quantisation) == (row["tag"], row["quant"])
    )


def test_memory_agrees_with_llama_cpp() -> None:
    assert len(projections()) > 250
    for row in projections():
        model, ubatch = model_of(row), int(row["ubatch"])
        load = Load(
            context=int(row["context"]),
            parallel=int(row["parallel"]),
            kv_type=row["kv_type"],  # type: ignore[arg-type]
            batch=ubatch,
            flash=row["flash"] == "on",
        )
        blocks = memory.weights(model).blocks
        counts = memory.deal(blocks, (1,) * int(row["n_gpus"]))
        assert counts
        start = sum(counts[: int(row["gpu"])])
        held = range(start, start + counts[int(row["gpu"])])
        layers = sum(index < model.shape.layers for index in held)
        cache_bytes = layers * memory.cache_per_layer(model.shape, load)
        compute_bytes = memory.compute(model.shape, load, first=row["gpu"] == "0")
        weight_bytes = sum(blocks[index] for index in held)
        assert cache_bytes // MIB == int(row["kv_mib"]), row
        assert abs(weight_bytes / MIB - int(row["model_mib"])) < 1.1, row
        assert abs(compute_bytes / MIB - int(row["compute_mib"])) < 1.1, row
        total_mib = (weight_bytes + cache_bytes + compute_bytes) / MIB
        assert abs(total_mib - int(row["projected_mib"])) < 2, row


def test_weights_agree_with_the_published_sizes() -> None:
    for model in catalog.models():
        weights = memory.weights(model)
        tensors = sum(weights.blocks) + weights.embedding
        assert abs(model.size_bytes - tensors) / model.size_bytes < 0.006, model.tag


@pytest.mark.parametrize(
    ("predicted_mib", "available_mib", "tokens", "batch"),
    [
        (9000, 14000, 4096, 512),
        (9000, 14000, 4097, 1024),
        (12057, 15360, 16384, 512),  # over 75 %
        (9000, 24000, 32769, 2048),
        (15000, 24000, 32769, 1024),  # over 60 %
        (9000, 0, 65536, 2048),
    ],
)
def test_batch_is_what_ollama_passes(
    predicted_mib: int, available_mib: int, tokens: int, batch: int
) -> None:
    assert memory.batch(predicted_mib * MIB, available_mib * MIB, tokens) == batch


def test_blocks_are_dealt_by_free_memory_and_else_packed_back_to_front() -> None:
    assert memory.deal((1,) * 29, (1, 1)) == (15, 14)
    assert memory.deal((1,) * 10, (3, 1)) == (8, 2)
    assert memory.fill((1,) * 10, (4, 7)) == (3, 7)
    assert memory.fill((1,) * 10, (2, 7)) == (2, 7)
    margin = memory.FIT_MARGIN_MIB * MIB
    # Dealt by free memory the small one would get 1 block and its buffer; it has no room.
    blocks = (100 * MIB,) * 10
    assert memory.place(blocks, (margin * 3, margin), 50 * MIB) == (1050 * MIB, 0)


def gpus(*vram_mib: int, capability: tuple[int, int] | None = (8, 6)) -> tuple[Gpu, ...]:
    return tuple(Gpu(index, "Card", size, capability) for index, size in enumerate(vram_mib))


def host(*vram_mib: int, capability: tuple[int, int] | None = (8, 6)) -> Hardware:
    return Hardware(gpus(*vram_mib, capability=capability), ram_mib=65536, cores=16)


@pytest.mark.parametrize(
    ("hardware", "tag", "context", "kv_type", "spread"),
    [
        (host(15360, capability=(7, 5)), "14b", 29696, "f16", False),
        (host(24576), "32b", 17408, "f16", False),
        (host(24564, 24564, capability=(8, 9)), "70b", 16384, "f16", True),
        (host(81559, capability=(9, 0)), "70b", 32768, "f16", False),
        (host(11264, capability=(6, 1)), "8b", 32768, "f16", False),
        (host(8188), "8b", 25600, "q8_0", False),
        (host(15360, 15360), "32b", 32768, "f16", True),
    ],
)
def test_known_hosts(
    hardware: Hardware, tag: str, context: int, kv_type: str, spread: bool
) -> None:
    choice = choose(hardware, Policy()).chosen
    assert (choice.tag, choice.kv_type, choice.sched_spread) == (tag, kv_type, spread)
    assert choice.context == context
    assert choice.placement == "gpu"
    assert not choice.only_these_gpus
    assert all(left >= memory.FIT_MARGIN_MIB for left in choice.left_mib)
    for gpu, need, left in zip(hardware.gpus, choice.needed_mib, choice.left_mib, strict=True):
        assert need + left + memory.CUDA_CONTEXT_MIB == gpu.vram_mib


def test_a_host_without_gpu_is_refused_or_takes_the_cpu() -> None:
    refused = choose(host(), Policy())
    assert refused.choice is None
    assert refused.refusal == "no GPU; set no_gpu to cpu to run a small model without one"
    with pytest.raises(ValueError, match="no GPU"):
        _ = refused.chosen
    choice = choose(host(), Policy(no_gpu="cpu")).chosen
    assert (choice.tag, choice.placement, choice.gpus) == ("7b", "cpu", ())
    assert choice.ram_mib < 65536
    small = Hardware((), ram_mib=6000, cores=4)
    assert choose(small, Policy(no_gpu="cpu")).chosen.tag == "1.5b"
    tiny = choose(Hardware((), ram_mib=2000, cores=1), Policy(no_gpu="cpu"))
    assert "1.5b needs" in str(tiny.refusal)
    assert choose(host(), Policy(no_gpu="cpu", cpu_largest_tag="14b")).chosen.tag == "14b"


def test_other_vendors_and_old_cards_are_named() -> None:
    amd = Hardware((), 65536, 16, other_gpus=("AMD GPU 744c",))
    assert "AMD GPU 744c" in str(choose(amd, Policy()).refusal)
    old = choose(host(11441, capability=(3, 7)), Policy()).refusal
    assert "compute capability 3.7" in str(old)
    mixed = (*gpus(24576), Gpu(1, "Old", 12288, (3, 5)))
    assert choose(Hardware(mixed, 65536, 16), Policy()).chosen.gpus == (0,)


def test_cards_without_flash_attention_have_no_quantised_cache_and_larger_buffers() -> None:
    new = choose(host(12288, capability=(6, 1)), Policy()).chosen
    old = choose(host(12288, capability=(5, 2)), Policy()).chosen
    assert (new.tag, old.tag, old.kv_type) == ("14b", "8b", "f16")
    assert choose(host(12288, capability=(5, 2)), Policy(kv_types=("q8_0",))).choice is None


def test_forced_tag() -> None:
    forced = choose(host(24576), Policy(tag="14b-qwen-distill-q8_0")).chosen
    assert (forced.tag, forced.model.quantisation) == ("14b-qwen-distill-q8_0", "q8_0")
    assert choose(host(24576), Policy(tag="32b-qwen-distill-q4_K_M")).chosen.model.tag == "32b"
    refusal = choose(host(15360), Policy(tag="70b")).refusal
    assert "the forced tag 70b does not fit" in str(refusal)
    assert "leave tag out: 14b fits" in str(refusal)


def test_too_small_a_card_names_the_context_that_would_fit() -> None:
    refusal = choose(host(3072), Policy(context_min=65536, context_max=65536)).refusal
    assert "even 1.5b, the smallest, does not fit" in str(refusal)
    assert "lower context_min to" in str(refusal)
    assert choose(host(1024), Policy()).refusal
    assert choose(host(1024), Policy(no_gpu="cpu")).chosen.only_these_gpus


def test_one_card_of_several_only_where_ollama_would_take_one() -> None:
    alone = choose(host(24576, 24576), Policy(tag="8b")).chosen
    assert (alone.gpus, alone.sched_spread) == ((0,), False)
    # 90 % of a card: Ollama takes both by its 80 % rule, so the plan does as well.
    both = choose(host(13500, 13500), Policy(tag="14b")).chosen
    assert (both.gpus, both.sched_spread) == ((0, 1), True)
    spread = choose(host(24576, 24576), Policy(tag="8b", spread=True)).chosen
    assert (spread.gpus, spread.sched_spread) == ((0, 1), True)


def test_reserve_and_parallel_and_a_given_context() -> None:
    assert choose(host(24576), Policy(reserve_mib=4096)).chosen.tag == "14b"
    assert choose(host(24576), Policy(parallel=4)).chosen.tag == "14b"
    given_context = read("h", {"ollama_context_length": 5000, "ollama_gpu_overhead": 1})
    found = policy(given_context)
    assert (found.context_min, found.context_max, found.reserve_mib) == (5000, 5000, 1)
    assert choose(host(24576), found).chosen.context == 5000
    assert policy(read("h", {"ollama_flash_attention": False})).kv_types == ("f16",)
    assert policy(read("h", {"ollama_kv_cache_type": "q4_0"})).kv_types == ("q4_0",)


def test_every_candidate_says_why() -> None:
    sizing = choose(host(15360), Policy())
    verdicts = {candidate.tag: candidate.verdict for candidate in sizing.candidates}
    assert verdicts == {
        "671b": "too big",
        "70b": "too big",
        "32b": "too big",
        "14b": "chosen",
        "8b": "smaller",
        "7b": "smaller",
        "1.5b": "smaller",
    }
    assert all(candidate.reason for candidate in sizing.candidates)
    assert "20883 MiB" in sizing.candidates[2].reason
