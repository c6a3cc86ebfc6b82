"""Where a model goes: wholly on GPUs, the rest in host memory, or on the CPU.

A card offers its total less the CUDA context, a reserve and the margin that llama.cpp keeps free
(memory.py has the figures). What other programs happen to use does not count. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from r1fleet import memory
from r1fleet.catalog import KvType, ModelTag
from r1fleet.memory import FIT_MARGIN_MIB, MIB, Load
from r1fleet.sizing_text import join, names, wish
from r1fleet.sizing_types import Choice, Gpu, Policy

CONTEXT_STEP = 1024


@dataclass(frozen=True)
class Layout:
    """Cards that a load is put on. `by_rule`: one of several, as Ollama itself picks it."""

    cards: tuple[Gpu, ...]
    by_rule: bool = False
    hides_others: bool = False

    @property
    def flash(self) -> bool:
        return all(card.has_flash_attention for card in self.cards)


def layouts(cards: tuple[Gpu, ...], policy: Policy) -> Iterator[Layout]:
    """The layouts to try, in order; the cards come largest first."""
    # A process can use one MIG instance and nothing beside it; Ollama mixes no vendors in a model.
    for vendor in dict.fromkeys(card.vendor for card in cards):
        group = tuple(card for card in cards if card.vendor == vendor and not card.mig_uuid)
        if group:
            yield from _layouts_of_cards(group, policy, len(group) < len(cards))
    for instance in (card for card in cards if card.mig_uuid):
        yield Layout((instance,), hides_others=len(cards) > 1)


def _layouts_of_cards(
    cards: tuple[Gpu, ...], policy: Policy, hides_others: bool
) -> Iterator[Layout]:
    if policy.spread is True:
        yield Layout(cards, hides_others=hides_others)
        return
    yield Layout(cards[:1], by_rule=len(cards) > 1, hides_others=hides_others)
    if len(cards) > 1:
        yield Layout(cards, hides_others=hides_others)
    # A small card beside a large one, or one without flash attention beside others, can cost more
    # than it gives: the last resort is to hide it.
    modern = tuple(card for card in cards if card.has_flash_attention)
    for group in (cards, modern) if len(modern) < len(cards) else (cards,):
        for count in range(len(group), 0, -1):
            if count < len(cards):
                yield Layout(group[:count], hides_others=True)


def on_gpus(model: ModelTag, cards: tuple[Gpu, ...], policy: Policy) -> Choice | str:
    """The model wholly on the cards, with an f16 cache before a quantised one; else why not."""
    if not cards:
        return "no GPU to put it on"
    tried = tuple(layouts(cards, policy))
    offer = sum(max(free_mib(card, policy) - FIT_MARGIN_MIB, 0) for card in cards)
    for kv_type in policy.kv_types:
        least = sum(memory.blocks(model, Load(policy.context_min, policy.parallel, kv_type, 512)))
        if least > offer * MIB:
            continue
        for layout in tried:
            if _needed(model, layout, policy, policy.context_min, kv_type):
                return _grown(model, layout, policy, kv_type)
    load = Load(policy.context_min, policy.parallel, policy.kv_types[-1], 512)
    need = sum(memory.blocks(model, load)) + memory.compute(model.shape, load)
    return (
        f"needs at least {mib(need)} MiB for {wish(policy)} with {load.kv_type} cache, "
        f"{names(cards)} can give {offer} of {sum(card.vram_mib for card in cards)} MiB"
    )


def _grown(model: ModelTag, layout: Layout, policy: Policy, kv_type: KvType) -> Choice:
    """The choice with the largest context that fits; that of context_min is known to."""
    cards = layout.cards
    for context in contexts(policy):
        if needed := _needed(model, layout, policy, context, kv_type):
            break
    needed_mib = tuple(mib(size) for size in needed or ())
    left_mib = tuple(
        card.vram_mib - card.context_mib - size
        for card, size in zip(cards, needed_mib, strict=True)
    )
    layers = model.shape.layers + 1
    return Choice(
        tag=policy.tag or model.tag,
        model=model,
        placement="gpu",
        context=context,
        kv_type=kv_type,
        parallel=policy.parallel,
        reason=f"sits wholly on {names(cards)} with {wish(policy)}: context "
        f"{context} and {kv_type} cache need {join(needed_mib)} MiB and leave {join(left_mib)}",
        sched_spread=len(cards) > 1 and policy.spread is not False,
        gpus=tuple(card.index for card in cards),
        only_these_gpus=layout.hides_others,
        needed_mib=needed_mib,
        left_mib=left_mib,
        layers_on_gpu=layers,
        layers=layers,
        gpu_percent=100,
        mig_uuid=cards[0].mig_uuid,
    )


def _needed(
    model: ModelTag, layout: Layout, policy: Policy, context: int, kv_type: KvType
) -> tuple[int, ...] | None:
    """Bytes per card when all of the model sits on them with the margin kept, else None."""
    cards = layout.cards
    flash = policy.flash_attention and layout.flash
    if kv_type != "f16" and not flash:
        return None
    rough = memory.predicted(model, context, policy.parallel)
    if layout.by_rule and rough > (cards[0].vram_mib - cards[0].context_mib) * MIB * 80 // 100:
        return None
    # The batch grows with free memory. Taken on the high side: the whole cards.
    available = sum(card.vram_mib for card in cards) * MIB
    batch = memory.batch(rough, available, context * policy.parallel) if flash else 512
    load = Load(context, policy.parallel, kv_type, batch, flash=flash, copies=len(cards) > 1)
    # What stays on the host lies in the same memory as a unified GPU's.
    host = memory.host(model, load) if cards[0].unified else 0
    frees = tuple(max(free_mib(card, policy) * MIB - host, 0) for card in cards)
    return _placed(model, load, frees, orders(cards))


def orders(cards: tuple[Gpu, ...]) -> tuple[tuple[int, ...], ...]:
    """The orders in which CUDA may count the cards, as positions: by size, and by index."""
    count = range(len(cards))
    by_index = tuple(sorted(count, key=lambda position: cards[position].index))
    return tuple(dict.fromkeys((tuple(count), tuple(reversed(count)), by_index)))


@lru_cache(maxsize=100_000)  # fleets are of few kinds of hosts
def _placed(
    model: ModelTag, load: Load, frees: tuple[int, ...], orders: tuple[tuple[int, ...], ...]
) -> tuple[int, ...] | None:
    """Bytes per card, the most of all orders; None when some order has no place for all."""
    blocks, overhead = memory.blocks(model, load), memory.compute(model.shape, load)
    most = [0] * len(frees)
    for order in orders:
        placed = memory.place(blocks, tuple(frees[position] for position in order), overhead)
        if placed is None:
            return None
        for position, size in zip(order, placed, strict=True):
            most[position] = max(most[position], size)
    return tuple(most)


def contexts(policy: Policy) -> Iterator[int]:
    """Contexts to try, largest first."""
    largest = policy.context_max // CONTEXT_STEP * CONTEXT_STEP
    yield from range(largest, policy.context_min, -CONTEXT_STEP)
    yield policy.context_min


def free_mib(card: Gpu, policy: Policy) -> int:
    """What a card has for the model: its total less the CUDA context, reserve and extra models."""
    extras = memory.extras_mib(policy.extra_models, policy.context_min, policy.parallel)
    return max(card.vram_mib - card.context_mib - policy.reserve_mib - extras, 0)


def mib(size_bytes: int) -> int:
    """Bytes as MiB, rounded up."""
    return -(-size_bytes // MIB)
