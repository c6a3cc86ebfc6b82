"""Sizing by policy: offload, orders, floors, forced tags, what is kept free, what is warned of."""

from dataclasses import replace

import pytest

from r1fleet import memory, settings
from r1fleet.sizing import Gpu, Hardware, Policy, choose, policy

GAMER = Hardware((Gpu(0, "GeForce RTX 4060 Ti 8 GB", 8188, (8, 9), 288.0),), 64 * 1024, 14)


def host(*vram_mib: int, ram_mib: int = 65536, **of_gpu: object) -> Hardware:
    gpus = tuple(
        Gpu(index, "Card", size, (8, 6), 400.0, **of_gpu)  # type: ignore[arg-type]
        for index, size in enumerate(vram_mib)
    )
    return Hardware(gpus, ram_mib, 16)


def test_the_reported_case_of_32b_in_8_bit_on_an_8_gb_card() -> None:
    wanted = Policy(tag="32b-qwen-distill-q8_0", placement="offload")
    choice = choose(GAMER, wanted).chosen
    assert choice.placement == "offload"
    assert 75 <= 100 - choice.gpu_percent <= 85
    assert choice.expected_tokens_per_s is not None
    assert 1 <= choice.expected_tokens_per_s <= 2.5
    assert "51.2 GB/s" in choice.speed_basis
    assert any("11 of 65 layers" in line for line in choice.warnings)
    assert choose(GAMER, replace(wanted, tag=None)).chosen.tag == "14b"


def test_what_is_larger_than_ram_and_vram_is_refused_for_memory() -> None:
    wanted = Policy(tag="70b-llama-distill-q8_0", placement="offload")
    refusal = str(choose(GAMER, wanted).refusal)
    assert "MiB of host memory" in refusal
    assert "there are 65536" in refusal


def test_offload_prefers_what_sits_wholly_on_the_gpus() -> None:
    whole = choose(host(24576), Policy(placement="offload", sizes=("14b",))).chosen
    assert (whole.placement, whole.layers_on_gpu, whole.layers) == ("gpu", 49, 49)
    part = choose(host(24576), Policy(placement="offload", sizes=("70b", "14b"))).chosen
    assert (part.tag, part.placement) == ("70b", "offload")
    assert part.layers_on_gpu * 2 >= part.layers
    strict = Policy(placement="offload", sizes=("70b", "14b"), offload_min_percent=90)
    sizing = choose(host(24576), strict)
    assert sizing.chosen.tag == "14b"
    assert "offload_min_percent is 90" in sizing.candidates[0].reason


def test_placement_cpu_takes_no_gpu() -> None:
    choice = choose(host(24576), Policy(placement="cpu")).chosen
    assert (choice.tag, choice.placement, choice.gpus) == ("7b", "cpu", ())
    assert choice.only_these_gpus
    forced = choose(host(24576), Policy(placement="cpu", tag="14b")).chosen
    assert (forced.tag, forced.layers_on_gpu) == ("14b", 0)


def test_the_orders_decide_what_is_best() -> None:
    large = host(81559)
    assert choose(large, Policy(sizes=("14b", "70b"))).chosen.tag == "14b"
    fine = choose(host(49140), Policy(quantisations=("fp16", "q8_0", "q4_K_M"))).chosen
    assert (fine.tag, fine.model.quantisation) == ("70b", "q4_K_M")
    finer = choose(large, Policy(sizes=("32b",), quantisations=("fp16", "q8_0"))).chosen
    assert finer.tag == "32b-qwen-distill-fp16"
    assert choose(large, Policy(kv_types=("q8_0", "f16"))).chosen.kv_type == "q8_0"


def test_too_slow_a_tag_is_passed_over_and_the_next_is_named() -> None:
    sizing = choose(host(24576), Policy(tokens_per_s_min=15))
    assert sizing.chosen.tag == "14b"
    slow = next(candidate for candidate in sizing.candidates if candidate.tag == "32b")
    assert slow.verdict == "too slow"
    assert "tokens_per_s_min is 15" in slow.reason
    forced = choose(host(24576), Policy(tokens_per_s_min=15, tag="32b")).chosen
    assert any("a smaller tag is 14b" in line for line in forced.warnings)
    nothing = choose(host(24576), Policy(tokens_per_s_min=5000))
    assert "too slow" in str(nothing.refusal)


def test_a_forced_tag_and_a_foreign_digest_are_never_silent() -> None:
    small = choose(host(24576), Policy(tag="7b")).chosen
    assert "the tag 7b is forced; without that 32b would be chosen" in small.warnings
    same = choose(host(24576), Policy(tag="32b-qwen-distill-q4_K_M")).chosen
    assert not any("forced" in line for line in same.warnings)
    pinned = Policy(digests=(("deepseek-r1:32b", "sha256:" + "0" * 64),))
    assert any("is pinned" in line for line in choose(host(24576), pinned).chosen.warnings)
    known = Policy(digests=(("deepseek-r1:32b", str(same.model.digest)),))
    assert not any("pinned" in line for line in choose(host(24576), known).chosen.warnings)


def test_less_than_advised_is_warned_of() -> None:
    poor = replace(host(24576, ram_mib=31000), cores=4, disk_free_mib=10_000)
    warnings = " ".join(choose(poor, Policy()).chosen.warnings)
    assert "33 GB of RAM, advised for 32b are 128" in warnings
    assert "10 GB of disk free, advised for 32b are 500" in warnings
    assert "4 CPU cores, advised for 32b are 8" in warnings
    assert "the download is 18931 MiB, 10000 MiB of disk are free" in warnings
    rich = replace(host(24576, ram_mib=125_000), disk_free_mib=500_000)
    assert choose(rich, Policy()).chosen.warnings == ()


@pytest.mark.parametrize(
    ("data", "reserve_mib"),
    [
        ({}, 0),
        ({"desktop": True}, 1536),
        ({"desktop": True, "vram_reserve_mib": 3000}, 3000),
        ({"vram_reserve_mib": 512, "ollama_gpu_overhead": 1024**3}, 1024),
    ],
)
def test_the_largest_reserve_counts(data: dict[str, object], reserve_mib: int) -> None:
    found = policy(settings.read("host", data))
    assert found.reserve_mib == reserve_mib
    choice = choose(host(24576), found).chosen
    assert choice.left_mib[0] >= reserve_mib + memory.FIT_MARGIN_MIB


def test_extra_models_keep_their_room() -> None:
    with_extra = Policy(extra_models=("bge-m3",), sizes=("14b",))
    choice = choose(host(16380), with_extra).chosen
    alone = choose(host(16380), replace(with_extra, extra_models=())).chosen
    assert choice.context < alone.context
    room_mib = choice.left_mib[0] - memory.FIT_MARGIN_MIB - memory.CUDA_CONTEXT_MIB
    assert room_mib >= 1_200_000_000 // memory.MIB
    beside = Policy(extra_models=("deepseek-r1:7b",))
    assert choose(host(24576), beside).chosen.tag == "14b"


def test_a_process_uses_one_mig_instance() -> None:
    cards = tuple(Gpu(0, "MIG 3g.40gb", 40192, (9, 0), mig_uuid=f"MIG-{n}") for n in "ab")
    choice = choose(Hardware(cards, 131072, 32), Policy()).chosen
    assert (choice.tag, choice.mig_uuid, len(choice.needed_mib)) == ("32b", "MIG-a", 1)
    assert choice.only_these_gpus


def test_unified_memory_also_holds_what_stays_on_the_host() -> None:
    own = choose(host(11500), Policy(sizes=("8b",), context_max=131072)).chosen
    shared = choose(host(11500, unified=True), Policy(sizes=("8b",), context_max=131072)).chosen
    assert shared.context < own.context
    refusal = choose(host(9000, unified=True), Policy(placement="offload", tag="70b")).refusal
    assert "nothing to offload to" in str(refusal)


def test_a_mac_with_16_gb_holds_8b() -> None:
    mac = Gpu(0, "Apple M2", 10922, None, 100.0, unified=True, vendor="apple")
    assert choose(Hardware((mac,), 16384, 8), Policy()).chosen.tag == "8b"
