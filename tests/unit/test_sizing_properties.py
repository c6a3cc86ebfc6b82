"""Sizing for any hardware and any policy."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from r1fleet import memory
from r1fleet.memory import MIB
from r1fleet.placement import CONTEXT_STEP
from r1fleet.sizing import Gpu, Hardware, Policy, choose

VRAM = st.integers(min_value=0, max_value=300_000)
CAPABILITY = st.sampled_from([None, (3, 5), (5, 0), (5, 2), (6, 1), (7, 2), (7, 5), (9, 0)])
CONTEXT = st.integers(min_value=1, max_value=128).map(lambda step: step * CONTEXT_STEP)


@st.composite
def cards_at(draw: st.DrawFn, index: int) -> Gpu:
    return Gpu(
        index=index,
        name="Card",
        vram_mib=draw(VRAM),
        compute_capability=draw(CAPABILITY),
        bandwidth_gb_s=draw(st.none() | st.floats(1, 10_000)),
        vendor=draw(st.sampled_from(["nvidia", "nvidia", "nvidia", "amd", "apple"])),
        mig_uuid=draw(st.sampled_from(["", "", "", f"MIG-{index}"])),
        unified=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def hosts(draw: st.DrawFn) -> Hardware:
    count = draw(st.integers(min_value=0, max_value=8))
    cards = tuple(draw(cards_at(index)) for index in range(count))
    disk_mib = draw(st.none() | st.integers(0, 10**8))
    ram_mib, cores = draw(st.integers(0, 10**7)), draw(st.integers(0, 512))
    return Hardware(cards, ram_mib, cores, disk_free_mib=disk_mib)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    least, largest = sorted((draw(CONTEXT), draw(CONTEXT)))
    return Policy(
        context_min=least,
        context_max=largest,
        parallel=draw(st.integers(1, 16)),
        kv_types=draw(st.sampled_from([("f16", "q8_0"), ("f16",), ("q8_0",), ("q4_0",)])),
        flash_attention=draw(st.booleans()),
        spread=draw(st.sampled_from([None, True, False])),
        reserve_mib=draw(st.integers(0, 8192)),
        no_gpu="refuse",
        placement=draw(st.sampled_from(["gpu", "gpu", "offload"])),
        offload_min_percent=draw(st.integers(1, 100)),
        sizes=draw(st.permutations(["70b", "32b", "14b", "8b", "7b", "1.5b"]).map(tuple)),
        quantisations=draw(st.sampled_from([("q4_K_M",), ("q8_0", "q4_K_M"), ("fp16",)])),
        extra_models=draw(st.sampled_from([(), (), ("bge-m3",), ("deepseek-r1:1.5b",)])),
    )


def rank(wanted: Policy, hardware: Hardware) -> int:
    """How good the chosen model is in the policy's own order; higher is better."""
    choice = choose(hardware, wanted).choice
    if choice is None:
        return -1000
    quantisation = wanted.quantisations.index(choice.model.quantisation)
    return -10 * wanted.sizes.index(choice.model.size) - quantisation


@settings(deadline=None)  # other work on the machine must not fail it
@given(hosts(), policies())
def test_a_choice_keeps_its_promises_and_a_refusal_has_a_reason(
    hardware: Hardware, wanted: Policy
) -> None:
    sizing = choose(hardware, wanted)
    if sizing.choice is None:
        assert sizing.refusal
        assert "\n" not in sizing.refusal
        return
    choice, by_index = sizing.choice, {gpu.index: gpu for gpu in hardware.gpus}
    assert wanted.context_min <= choice.context <= wanted.context_max
    for index, need, left in zip(choice.gpus, choice.needed_mib, choice.left_mib, strict=True):
        assert by_index[index].usable
        assert left >= memory.FIT_MARGIN_MIB + wanted.reserve_mib or need == 0
    floor = sum(memory.weights(choice.model).blocks) // MIB
    assert sum(choice.needed_mib) + choice.ram_mib >= floor
    if choice.placement == "gpu":
        assert choice.layers_on_gpu == choice.layers
    elif not wanted.spread:
        # A card of a forced spread may be too small for its margin while another takes all layers.
        assert choice.layers_on_gpu < choice.layers
    assert choice.placement == "gpu" or choice.ram_mib <= hardware.ram_mib
    assert all(line and "\n" not in line for line in choice.warnings)
    assert all(candidate.reason for candidate in sizing.candidates)


@settings(deadline=None)
@given(hosts(), policies(), st.data())
def test_more_vram_never_gives_a_worse_model(
    hardware: Hardware, wanted: Policy, data: st.DataObject
) -> None:
    # Forced to spread over every card, a small one more can indeed cost more than it gives.
    wanted = replace(wanted, spread=None)
    more = tuple(
        replace(gpu, vram_mib=gpu.vram_mib + data.draw(st.integers(0, 50_000)))
        for gpu in hardware.gpus
    )
    extra = Gpu(len(more), "Card", data.draw(VRAM), (9, 0))
    before = rank(wanted, hardware)
    assert rank(wanted, replace(hardware, gpus=more)) >= before
    assert rank(wanted, replace(hardware, gpus=(*more, extra))) >= before


@settings(deadline=None)
@given(hosts(), policies(), CONTEXT)
def test_a_larger_least_context_never_gives_a_better_model(
    hardware: Hardware, wanted: Policy, step: int
) -> None:
    least = wanted.context_min + step
    harder = replace(wanted, context_min=least, context_max=max(least, wanted.context_max))
    assert rank(harder, hardware) <= rank(wanted, hardware)


@settings(deadline=None)
@given(hosts(), policies(), st.randoms(use_true_random=False))
def test_the_order_of_the_gpus_does_not_matter(
    hardware: Hardware, wanted: Policy, random: object
) -> None:
    shuffled = list(hardware.gpus)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = choose(replace(hardware, gpus=tuple(shuffled)), wanted)
    assert again.choice == choose(hardware, wanted).choice
