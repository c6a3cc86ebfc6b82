"""Random hosts and policies, and llama.cpp's verdict on what sizing chose for them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from lab.engine.build import EngineDir
from lab.oracle import Projection, project
from r1fleet import memory
from r1fleet.catalog import KvType, ModelTag, models
from r1fleet.memory import MIB, Load
from r1fleet.placement import Layout, free_mib, layouts
from r1fleet.sizing import Choice, Gpu, Hardware, Policy, choose

_CARDS_GIB = (4, 6, 8, 10, 11, 12, 15, 16, 20, 22.5, 24, 32, 40, 45, 48, 80, 94, 141, 192)
_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True)
class Verdict:
    """`unfit`: what llama.cpp moved to the host against the plan. `missed`: the better tag that
    it would have taken whole."""

    hardware: Hardware
    policy: Policy
    choice: Choice | None
    unfit: str = ""
    missed: str = ""


def random_case(random: Random) -> tuple[Hardware, Policy]:
    """1 to 8 GPUs, equal or not, of 4 to 192 GB, and any policy for them."""
    count = random.choice((1, 1, 1, 2, 2, 3, 4, 8))
    sizes = [random.choice(_CARDS_GIB)] * count
    if random.random() < 0.4:
        sizes = [random.choice(_CARDS_GIB) for _ in range(count)]
    totals = [int(gib * 1024) - random.randrange(0, 400) for gib in sizes]
    cards = tuple(
        Gpu(index, f"card {index}", mib, random.choice(((8, 6), (8, 9), (7, 5))))
        for index, mib in enumerate(totals)
    )
    least, largest = sorted(random.choices(_CONTEXTS, k=2))
    policy = Policy(
        context_min=least,
        context_max=largest,
        parallel=random.choice((1, 1, 1, 2, 4)),
        kv_types=random.choice((("f16", "q8_0"), ("f16",), ("q8_0",), ("q8_0", "q4_0"))),
        quantisations=random.choice((("q4_K_M",), ("q4_K_M",), ("q8_0", "q4_K_M"), ("fp16",))),
        # A tag of 671b has no file of true shape to ask llama.cpp about.
        sizes=("70b", "32b", "14b", "8b", "7b", "1.5b"),
        spread=random.choice((None, None, None, True)),
        reserve_mib=random.choice((0, 0, 0, 512, 1536)),
        placement=random.choice(("gpu", "gpu", "gpu", "offload", "cpu")),
        offload_min_percent=random.choice((10, 25, 50)),
    )
    ram_mib = random.choice((16, 32, 64, 128, 256, 512)) * 1000
    return Hardware(cards, ram_mib, random.choice((4, 8, 16, 64))), policy


def judge(engine: EngineDir, hardware: Hardware, policy: Policy) -> Verdict:
    """What llama.cpp says to the choice for a host, and to the tag that is next better."""
    choice = choose(hardware, policy).choice
    verdict = Verdict(hardware, policy, choice)
    if choice and choice.gpus:
        verdict = replace(verdict, unfit=_unfit(engine, hardware, policy, choice))
    if policy.placement != "cpu":
        verdict = replace(verdict, missed=_missed(engine, hardware, policy, choice))
    return verdict


def _unfit(engine: EngineDir, hardware: Hardware, policy: Policy, choice: Choice) -> str:
    cards = tuple(card for card in hardware.gpus if card.index in choice.gpus)
    found = _ask(engine, choice.model, cards, policy, choice.context, choice.kv_type)
    placed = sum(found.layers) if found.layers else choice.layers
    if placed >= choice.layers_on_gpu:
        return ""
    return f"{placed} of {choice.layers} layers, planned were {choice.layers_on_gpu}"


def _missed(engine: EngineDir, hardware: Hardware, policy: Policy, choice: Choice | None) -> str:
    """The next better tag, if llama.cpp takes it whole on the cards that Ollama would use."""
    pool = [
        next(m for m in models() if (m.size, m.quantisation) == (size, quantisation))
        for size in policy.sizes
        for quantisation in policy.quantisations
    ]
    at = pool.index(choice.model) if choice else len(pool)
    if at == 0:
        return ""
    better = pool[at - 1]
    cards = tuple(sorted(hardware.gpus, key=lambda card: (-card.vram_mib, card.index)))
    for kv_type in policy.kv_types:
        for layout in _of_ollama(better, cards, policy):
            in_order = tuple(sorted(layout.cards, key=lambda card: card.index))
            found = _ask(engine, better, in_order, policy, policy.context_min, kv_type)
            if not found.layers or sum(found.layers) > better.shape.layers:
                return f"{better.tag} with {kv_type} on {len(in_order)} cards"
    return ""


def _of_ollama(model: ModelTag, cards: tuple[Gpu, ...], policy: Policy) -> Iterator[Layout]:
    """The cards that Ollama uses when none is hidden from it."""
    for layout in layouts(cards, policy):
        rough = memory.predicted(model, policy.context_min, policy.parallel)
        fits = rough <= (layout.cards[0].vram_mib - layout.cards[0].context_mib) * MIB * 80 // 100
        if not layout.hides_others and (fits or not layout.by_rule):
            yield layout


def _ask(
    engine: EngineDir,
    model: ModelTag,
    cards: tuple[Gpu, ...],
    policy: Policy,
    context: int,
    kv_type: KvType,
) -> Projection:
    """llama.cpp's placement, with the batch that Ollama takes.

    RPC devices keep no copies of the inputs, as several CUDA cards do: that term of the formula is
    taken off the cards instead.
    """
    frees = [free_mib(card, policy) for card in cards]
    rough = memory.predicted(model, context, policy.parallel)
    batch = memory.batch(rough, sum(frees) * MIB, context * policy.parallel)
    if len(cards) > 1:
        load = Load(context, policy.parallel, kv_type, batch)
        plain = memory.compute(model.shape, load)
        copies = memory.compute(model.shape, replace(load, copies=True)) - plain
        frees = [max(free - -(-copies // MIB), 1) for free in frees]
    name = model.size if model.quantisation == "q4_K_M" else f"{model.size}-{model.quantisation}"
    return project(
        engine,
        engine.shapes / f"{name}.gguf",
        frees,
        context=context,
        parallel=policy.parallel,
        batch=batch,
        kv_type=kv_type,
    )
