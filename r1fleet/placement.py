"""How a model can be placed on a host: on its GPUs as Ollama and llama.cpp would, or on its CPU.

A card offers its total less the CUDA context and less the margin that llama.cpp keeps free
(memory.py has the figures). Pure.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from r1fleet import catalog, memory
from r1fleet.catalog import KvType, ModelTag
from r1fleet.memory import CUDA_CONTEXT_MIB, FIT_MARGIN_MIB, MIB, SYSTEM_MIB, Load
from r1fleet.sizing_types import Choice, Gpu, Hardware, Policy

CONTEXT_STEP = 1024


@dataclass(frozen=True)
class _Layout:
    """Cards that a load is put on. `by_rule`: one of several, as Ollama itself picks it."""

    cards: tuple[Gpu, ...]
    by_rule: bool = False
    hides_others: bool = False


def _layouts(cards: tuple[Gpu, ...], policy: Policy) -> Iterator[_Layout]:
    """The layouts to try, in order; the cards come largest first."""
    if policy.spread is True:
        yield _Layout(cards)
        return
    yield _Layout(cards[:1], by_rule=len(cards) > 1)
    if len(cards) > 1:
        yield _Layout(cards)
    # A small card beside a large one, or one without flash attention beside others, can cost more
    # than it gives: the last resort is to hide it.
    modern = tuple(card for card in cards if card.has_flash_attention)
    for group in (cards, modern) if len(modern) < len(cards) else (cards,):
        for count in range(len(group), 0, -1):
            if count < len(cards):
                yield _Layout(group[:count], hides_others=True)


def on_gpus(model: ModelTag, cards: tuple[Gpu, ...], policy: Policy) -> Choice | str:
    """The model wholly on the cards, with an f16 cache before a quantised one; else why not."""
    if not cards:
        return "no GPU to put it on"
    for kv_type in policy.kv_types:
        for layout in _layouts(cards, policy):
            if _needed(model, layout, policy, policy.context_min, kv_type):
                return _grown(model, layout, policy, kv_type)
    load = Load(policy.context_min, policy.parallel, policy.kv_types[-1], 512)
    need = sum(_blocks(model, load)) + memory.compute(model.shape, load)
    offer = sum(max(_free_mib(card, policy) - FIT_MARGIN_MIB, 0) for card in cards)
    return (
        f"needs at least {_mib(need)} MiB for {_wish(policy)} with {load.kv_type} cache, "
        f"{_names(cards)} can give {offer} of {sum(card.vram_mib for card in cards)} MiB"
    )


def _grown(model: ModelTag, layout: _Layout, policy: Policy, kv_type: KvType) -> Choice:
    """The choice with the largest context that fits; that of context_min is known to."""
    cards = layout.cards
    for context in _contexts(policy):
        if needed := _needed(model, layout, policy, context, kv_type):
            break
    needed_mib = tuple(_mib(size) for size in needed or ())
    left_mib = tuple(
        card.vram_mib - CUDA_CONTEXT_MIB - size
        for card, size in zip(cards, needed_mib, strict=True)
    )
    return Choice(
        tag=policy.tag or model.tag,
        model=model,
        placement="gpu",
        context=context,
        kv_type=kv_type,
        parallel=policy.parallel,
        reason=f"the largest that sits wholly on {_names(cards)} with {_wish(policy)}: context "
        f"{context} and {kv_type} cache need {_join(needed_mib)} MiB and leave {_join(left_mib)}",
        sched_spread=len(cards) > 1 and policy.spread is not False,
        gpus=tuple(card.index for card in cards),
        only_these_gpus=layout.hides_others,
        needed_mib=needed_mib,
        left_mib=left_mib,
    )


def _needed(
    model: ModelTag, layout: _Layout, policy: Policy, context: int, kv_type: KvType
) -> tuple[int, ...] | None:
    """Bytes per card when all of the model sits on them with the margin kept, else None."""
    cards, tokens = layout.cards, context * policy.parallel
    flash = policy.flash_attention and all(card.has_flash_attention for card in cards)
    if kv_type != "f16" and not flash:
        return None
    rough = memory.predicted(model, context, policy.parallel)
    if layout.by_rule and rough > (cards[0].vram_mib - CUDA_CONTEXT_MIB) * MIB * 80 // 100:
        return None
    # The batch grows with free memory. Taken on the high side: the whole card; and with several
    # cards the largest batch, so that more memory never makes a plan worse.
    available = cards[0].vram_mib * MIB if len(cards) == 1 else 0
    batch = memory.batch(rough, available, tokens) if flash else 512
    load = Load(context, policy.parallel, kv_type, batch, flash=flash, copies=len(cards) > 1)
    blocks, overhead = _blocks(model, load), memory.compute(model.shape, load)
    frees = tuple(_free_mib(card, policy) * MIB for card in cards)
    # Which card CUDA counts as the first is not known here: both orders must hold.
    down = memory.place(blocks, frees, overhead)
    up = memory.place(blocks, frees[::-1], overhead)
    if not down or not up:
        return None
    return tuple(max(pair) for pair in zip(down, up[::-1], strict=True))


def on_cpu(model: ModelTag, hardware: Hardware, policy: Policy) -> Choice | str:
    """The model in host memory, if policy and memory allow it; else why not."""
    sizes = [known.size for known in catalog.models()]
    limit = catalog.find_tag(policy.cpu_largest_tag).size
    if not policy.tag and sizes.index(model.size) > sizes.index(limit):
        return f"cpu_largest_tag is {policy.cpu_largest_tag}"
    smallest = 0
    for kv_type in policy.kv_types:
        for context in _contexts(policy):
            batch = memory.batch(0, 0, context * policy.parallel)
            load = Load(context, policy.parallel, kv_type, batch, flash=policy.flash_attention)
            size = sum(_blocks(model, load)) + memory.weights(model).embedding
            size += memory.compute(model.shape, load) + memory.host_compute(model.shape, load)
            smallest = _mib(size) + SYSTEM_MIB
            if smallest <= hardware.ram_mib:
                return Choice(
                    tag=policy.tag or model.tag,
                    model=model,
                    placement="cpu",
                    context=context,
                    kv_type=kv_type,
                    parallel=policy.parallel,
                    reason=f"the largest that policy allows on the CPU (no_gpu: cpu): context "
                    f"{context} and {kv_type} cache need {smallest} of {hardware.ram_mib} MiB",
                    # A GPU that holds no model would still be given some layers.
                    only_these_gpus=bool(hardware.gpus),
                    ram_mib=smallest,
                )
    return f"needs {smallest} MiB of host memory for {_wish(policy)}, there are {hardware.ram_mib}"


def _blocks(model: ModelTag, load: Load) -> tuple[int, ...]:
    """Bytes of each layer with its cache, then of the output."""
    weights, cache = memory.weights(model), memory.cache_per_layer(model.shape, load)
    return (*(layer + cache for layer in weights.layers), weights.output)


def _contexts(policy: Policy) -> Iterator[int]:
    """Contexts to try, largest first."""
    largest = policy.context_max // CONTEXT_STEP * CONTEXT_STEP
    yield from range(largest, policy.context_min, -CONTEXT_STEP)
    yield policy.context_min


def _free_mib(card: Gpu, policy: Policy) -> int:
    return max(card.vram_mib - CUDA_CONTEXT_MIB - policy.reserve_mib, 0)


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)


def _join(numbers: tuple[int, ...]) -> str:
    return " + ".join(str(number) for number in numbers)


def _names(cards: tuple[Gpu, ...]) -> str:
    names = Counter(card.name for card in cards)
    return " and ".join(f"{n} x {name}" if n > 1 else name for name, n in names.items())


def _wish(policy: Policy) -> str:
    requests = f" for {policy.parallel} requests at once" if policy.parallel > 1 else ""
    return f"context {policy.context_min}{requests}"
