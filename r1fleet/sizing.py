"""Which DeepSeek-R1 fits a host, and why: pure, from hardware and policy to a choice.

The best model is the largest tag that sits wholly on the GPUs with the least wanted context, the
cache in f16, else in q8_0; then the context grows as far as it fits. How much of what fits where:
placement.py and memory.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

from r1fleet import catalog
from r1fleet.catalog import KvType, ModelTag
from r1fleet.memory import MIB
from r1fleet.placement import CONTEXT_STEP, on_cpu, on_gpus
from r1fleet.settings import Settings
from r1fleet.sizing_types import Choice, Gpu, Hardware, Policy

# A browser, a screen and a game's launcher.
DESKTOP_MIB = 1536

__all__ = ["Candidate", "Choice", "Gpu", "Hardware", "Policy", "Sizing", "choose", "policy"]


@dataclass(frozen=True)
class Candidate:
    """A tag that was looked at, largest first."""

    tag: str
    verdict: Literal["chosen", "too big", "too slow", "smaller"]
    reason: str


@dataclass(frozen=True)
class Sizing:
    """The outcome: a choice, or a refusal in one line that names the way out."""

    hardware: Hardware
    choice: Choice | None
    candidates: tuple[Candidate, ...]
    refusal: str | None = None

    @property
    def chosen(self) -> Choice:
        """The choice where there is one. Raises ValueError with the refusal."""
        if self.choice is None:
            raise ValueError(self.refusal)
        return self.choice


def policy(settings: Settings) -> Policy:
    """The part of a host's settings that sizing looks at."""
    forced = settings.ollama_context_length
    flash = settings.ollama_flash_attention is not False
    kv_types = cast(tuple[KvType, ...], settings.kv_cache_types)
    if settings.ollama_kv_cache_type:
        kv_types = (settings.ollama_kv_cache_type,)
    elif not flash:
        kv_types = ("f16",)
    return Policy(
        tag=settings.tag,
        context_min=forced or settings.context_min,
        context_max=forced or settings.context_max,
        parallel=settings.ollama_num_parallel,
        kv_types=kv_types,
        flash_attention=flash,
        spread=settings.ollama_sched_spread,
        reserve_mib=_reserve_mib(settings),
        no_gpu=settings.no_gpu,
        cpu_largest_tag=settings.cpu_largest_tag,
        placement=settings.placement,
        offload_min_percent=settings.offload_min_percent,
        sizes=settings.size_order,
        quantisations=settings.quantisations,
        tokens_per_s_min=settings.tokens_per_s_min,
        extra_models=settings.extra_models,
        model=settings.model,
        digests=tuple(settings.model_digests.items()),
    )


def _reserve_mib(settings: Settings) -> int:
    """The largest of what is asked to be left on each card, by whichever name."""
    overhead = -(-settings.ollama_gpu_overhead // MIB)
    return max(settings.vram_reserve_mib, overhead, DESKTOP_MIB if settings.desktop else 0)


def choose(hardware: Hardware, policy: Policy) -> Sizing:
    """The best model for a host, or why there is none. Never raises for any hardware."""
    usable = tuple(sorted((gpu for gpu in hardware.gpus if gpu.usable), key=_largest_first))
    choice, candidates = _best(policy, lambda model: on_gpus(model, usable, policy))
    if choice is None and policy.no_gpu == "cpu":
        choice, candidates = _best(policy, lambda model: on_cpu(model, hardware, policy))
    refusal = None if choice else _refusal(hardware, usable, policy)
    return Sizing(hardware, choice, candidates, refusal)


def _best(
    policy: Policy, attempt: Callable[[ModelTag], Choice | str]
) -> tuple[Choice | None, tuple[Candidate, ...]]:
    """The first tag, largest first, for which the attempt gives a choice instead of a reason."""
    chosen: Choice | None = None
    seen: list[Candidate] = []
    for model in _pool(policy):
        if chosen:
            seen.append(Candidate(model.tag, "smaller", f"{chosen.tag} is the better model"))
            continue
        found = attempt(model)
        if isinstance(found, Choice):
            chosen = found
            seen.append(Candidate(found.tag, "chosen", found.reason))
        else:
            seen.append(Candidate(model.tag, "too big", found))
    return chosen, tuple(seen)


def _pool(policy: Policy) -> tuple[ModelTag, ...]:
    if policy.tag:
        return (catalog.find_tag(policy.tag),)
    return tuple(model for model in reversed(catalog.models()) if model.automatic)


def _refusal(hardware: Hardware, usable: tuple[Gpu, ...], policy: Policy) -> str:
    """Why there is no choice, and the way out, in one line."""
    if policy.no_gpu == "cpu" and (not usable or hardware.ram_mib):
        smallest = _pool(policy)[-1]
        why = on_cpu(smallest, hardware, policy)
        return f"no model fits this host: {smallest.tag} {why}; lower context_min or add memory"
    if not usable:
        return f"{_why_no_gpu(hardware)}; set no_gpu to cpu to run a small model without one"
    smallest = _pool(policy)[-1]
    name = f"the forced tag {policy.tag}" if policy.tag else f"even {smallest.tag}, the smallest,"
    why = f"{name} does not fit: it {on_gpus(smallest, usable, policy)}"
    return f"{why}; {_way_out(smallest, usable, policy)}"


def _why_no_gpu(hardware: Hardware) -> str:
    if hardware.gpus:
        old = ", ".join(
            f"{gpu.name} ({gpu.vram_mib} MiB, compute capability {_dotted(gpu)})"
            for gpu in hardware.gpus
        )
        return f"no usable GPU: {old}; Ollama needs compute capability 5.0 and a known size"
    if hardware.other_gpus:
        return f"no NVIDIA GPU, and {', '.join(hardware.other_gpus)} cannot be sized yet"
    return "no GPU"


def _way_out(smallest: ModelTag, usable: tuple[Gpu, ...], policy: Policy) -> str:
    if policy.tag:
        free = choose(Hardware(usable, 0, 0), replace(policy, tag=None, no_gpu="refuse"))
        if free.choice:
            return f"leave tag out: {free.choice.tag} fits"
    for context in range(policy.context_min // CONTEXT_STEP * CONTEXT_STEP, 0, -CONTEXT_STEP):
        less = replace(policy, context_min=context, context_max=context)
        if isinstance(on_gpus(smallest, usable, less), Choice):
            return f"lower context_min to {context}"
    return "set no_gpu to cpu, or use a larger GPU"


def _largest_first(card: Gpu) -> tuple[int, int]:
    return (-card.vram_mib, card.index)


def _dotted(gpu: Gpu) -> str:
    return ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else "unknown"
