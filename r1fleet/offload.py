"""Where host memory holds some of a model or all of it. Pure.

llama.cpp fills the cards from the last one back and from the output layer down; what does not fit
stays in host memory, with its cache, and the CPU works on it. On CUDA a prompt's large batches are
sent to the card with the weights they need, which takes a copy of one tensor there: that is not in
these figures, and may cost a layer.
"""

from r1fleet import catalog, memory
from r1fleet.catalog import ModelTag
from r1fleet.memory import FIT_MARGIN_MIB, MIB, SYSTEM_MIB, Load
from r1fleet.placement import contexts, free_mib, layouts, mib, on_gpus, orders
from r1fleet.sizing_text import names, wish
from r1fleet.sizing_types import Choice, Gpu, Hardware, Policy


def on_gpus_and_host(
    model: ModelTag, cards: tuple[Gpu, ...], hardware: Hardware, policy: Policy
) -> Choice | str:
    """The model on the cards, wholly where that goes, else the rest in host memory; or why not."""
    whole = on_gpus(model, cards, policy)
    if isinstance(whole, Choice) or not cards:
        return whole
    cards = tuple(card for card in cards if not card.unified)
    if not cards:
        return f"{whole}; its memory is the host's own, there is nothing to offload to"
    why = whole
    for kv_type in policy.kv_types:
        found = _split(
            model, cards, hardware, policy, Load(policy.context_min, policy.parallel, kv_type, 512)
        )
        if isinstance(found, Choice):
            return found
        why = found or why
    return why


def _split(
    model: ModelTag, cards: tuple[Gpu, ...], hardware: Hardware, policy: Policy, load: Load
) -> Choice | str | None:
    """As many layers on the cards as go; None when they cannot have this type of cache."""
    flashes = [layout for layout in layouts(cards, policy) if not layout.by_rule]
    tried = [
        (_on_cards(model, layout.cards, policy, load), layout)
        for layout in flashes
        if load.kv_type == "f16" or (policy.flash_attention and layout.flash)
    ]
    if not tried:
        return None
    (counts, load), layout = max(tried, key=lambda found: sum(found[0][0]))
    blocks = memory.blocks(model, load)
    layers, total = sum(counts), model.shape.layers + 1
    off = total - layers
    held = memory.slices(blocks, (off, *counts))
    overhead = memory.compute(model.shape, load, first=False)
    on_host = held[0] + memory.host(model, load) + overhead
    ram = mib(on_host) + SYSTEM_MIB
    if ram > hardware.ram_mib:
        return f"needs {ram} MiB of host memory for the {off} layers that do not fit on " + (
            f"{names(layout.cards)} with {wish(policy)}, there are {hardware.ram_mib}"
        )
    percent = 100 * layers // total
    if percent < policy.offload_min_percent and not policy.tag:
        return (
            f"puts only {layers} of {total} layers ({percent} %) on {names(layout.cards)}, "
            f"offload_min_percent is {policy.offload_min_percent}"
        )
    needed = tuple(mib(size + overhead) if size else 0 for size in held[1:])
    on_gpu = sum(held[1:]) + overhead * sum(1 for size in held[1:] if size)
    share = round(100 * on_gpu / (on_gpu + on_host))
    return Choice(
        tag=policy.tag or model.tag,
        model=model,
        placement="offload",
        context=load.context,
        kv_type=load.kv_type,
        parallel=load.parallel,
        reason=f"{layers} of {total} layers on {names(layout.cards)} with {wish(policy)} and "
        f"{load.kv_type} cache, the rest in {ram} of {hardware.ram_mib} MiB of host memory: "
        f"{100 - share} % CPU, {share} % GPU",
        sched_spread=len(layout.cards) > 1 and policy.spread is not False,
        gpus=tuple(card.index for card in layout.cards),
        only_these_gpus=layout.hides_others,
        needed_mib=needed,
        left_mib=tuple(
            card.vram_mib - card.context_mib - size
            for card, size in zip(layout.cards, needed, strict=True)
        ),
        ram_mib=ram,
        layers_on_gpu=layers,
        layers=total,
        gpu_percent=share,
        mig_uuid=layout.cards[0].mig_uuid,
    )


def _on_cards(
    model: ModelTag, cards: tuple[Gpu, ...], policy: Policy, load: Load
) -> tuple[tuple[int, ...], Load]:
    """Layers per card, in the order that takes the fewest, and the load with Ollama's batch."""
    flash = policy.flash_attention and all(card.has_flash_attention for card in cards)
    rough = memory.predicted(model, load.context, load.parallel)
    available = sum(card.vram_mib for card in cards) * MIB
    tokens = load.context * load.parallel
    batch = memory.batch(rough, available, tokens) if flash else 512
    load = Load(
        load.context, load.parallel, load.kv_type, batch, flash=flash, copies=len(cards) > 1
    )
    overhead = memory.compute(model.shape, load, first=False)
    margin = FIT_MARGIN_MIB * MIB + overhead
    budgets = tuple(max(free_mib(card, policy) * MIB - margin, 0) for card in cards)
    blocks = memory.blocks(model, load)
    found = []
    for order in orders(cards):
        filled = memory.fill(blocks, tuple(budgets[position] for position in order))
        found.append(tuple(count for _, count in sorted(zip(order, filled, strict=True))))
    return min(found, key=sum), load


def kept_mib(context: int, policy: Policy) -> int:
    """What llama.cpp must keep free on each card: its margin, the reserve, the extra models."""
    extras = memory.extras_mib(policy.extra_models, context, policy.parallel)
    return FIT_MARGIN_MIB + policy.reserve_mib + extras


def on_cpu(model: ModelTag, hardware: Hardware, policy: Policy) -> Choice | str:
    """The model in host memory, if policy and memory allow it; else why not."""
    limit = catalog.find_tag(policy.cpu_largest_tag).size
    sizes = catalog.sizes()
    if not policy.tag and sizes.index(model.size) > sizes.index(limit):
        return f"cpu_largest_tag is {policy.cpu_largest_tag}"
    beside = memory.extras_mib(policy.extra_models, policy.context_min, policy.parallel)
    smallest = 0
    for kv_type in policy.kv_types:
        for context in contexts(policy):
            batch = memory.batch(0, 0, context * policy.parallel)
            load = Load(context, policy.parallel, kv_type, batch, flash=policy.flash_attention)
            size = sum(memory.blocks(model, load)) + memory.host(model, load)
            size += memory.compute(model.shape, load)
            smallest = mib(size) + SYSTEM_MIB + beside
            if smallest <= hardware.ram_mib:
                return Choice(
                    tag=policy.tag or model.tag,
                    model=model,
                    placement="cpu",
                    context=context,
                    kv_type=kv_type,
                    parallel=policy.parallel,
                    reason=f"on the CPU, as policy allows: context {context} and {kv_type} cache "
                    f"need {smallest} of {hardware.ram_mib} MiB",
                    # A GPU that holds no model would still be given some layers.
                    only_these_gpus=bool(hardware.gpus),
                    ram_mib=smallest,
                    layers=model.shape.layers + 1,
                )
    return f"needs {smallest} MiB of host memory for {wish(policy)}, there are {hardware.ram_mib}"
