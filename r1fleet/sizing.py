"""Which DeepSeek-R1 fits a host, and why: pure, from hardware and policy to a choice.

The best model is the first, by the policy's order of sizes and then of quantisations, that goes
where the policy allows with the least wanted context and is fast enough; the cache as high in the
policy's order as fits; then the context grows as far as it fits. How much of what fits where:
placement.py, offload.py and memory.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

from r1fleet import advice, catalog
from r1fleet.catalog import KvType, ModelTag
from r1fleet.memory import MIB
from r1fleet.offload import on_cpu, on_gpus_and_host
from r1fleet.placement import CONTEXT_STEP, on_gpus
from r1fleet.settings import Settings
from r1fleet.sizing_text import dotted
from r1fleet.sizing_types import Choice, Gpu, Hardware, Policy
from r1fleet.speed import with_speed

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


@lru_cache(maxsize=4096)  # fleets are of few kinds of hosts
def choose(hardware: Hardware, policy: Policy) -> Sizing:
    """The best model for a host, or why there is none. Never raises for any hardware."""
    usable = tuple(sorted((gpu for gpu in hardware.gpus if gpu.usable), key=_largest_first))
    choice: Choice | None = None
    candidates: tuple[Candidate, ...] = ()
    if policy.placement != "cpu":
        choice, candidates = _best(
            policy, hardware, lambda model: _attempt(model, usable, hardware, policy)
        )
    if choice is None and _cpu_allowed(policy):
        choice, candidates = _best(policy, hardware, lambda model: on_cpu(model, hardware, policy))
    if choice is None:
        return Sizing(hardware, None, candidates, _refusal(hardware, usable, policy))
    warnings = advice.warnings(choice, hardware, policy, _unforced(choice, hardware, policy))
    return Sizing(hardware, replace(choice, warnings=warnings), candidates)


def _cpu_allowed(policy: Policy) -> bool:
    return policy.placement == "cpu" or policy.no_gpu == "cpu"


def _attempt(
    model: ModelTag, usable: tuple[Gpu, ...], hardware: Hardware, policy: Policy
) -> Choice | str:
    if policy.placement == "offload":
        return on_gpus_and_host(model, usable, hardware, policy)
    return on_gpus(model, usable, policy)


def _best(
    policy: Policy, hardware: Hardware, attempt: Callable[[ModelTag], Choice | str]
) -> tuple[Choice | None, tuple[Candidate, ...]]:
    """The first tag, in the policy's order, for which the attempt gives a choice that is fast
    enough; with every other and why it is not taken."""
    chosen: Choice | None = None
    seen: list[Candidate] = []
    for model in _pool(policy):
        if chosen:
            seen.append(Candidate(model.tag, "smaller", f"{chosen.tag} is the better model"))
            if chosen.next_smaller is None:
                chosen = replace(chosen, next_smaller=model.tag)
            continue
        found = attempt(model)
        if isinstance(found, str):
            seen.append(Candidate(model.tag, "too big", found))
            continue
        found = with_speed(found, hardware)
        slow = _too_slow(found, policy)
        if slow and not policy.tag:
            seen.append(Candidate(found.tag, "too slow", slow))
        else:
            chosen = found
            seen.append(Candidate(found.tag, "chosen", found.reason))
    if chosen and policy.tag:
        chosen = replace(chosen, next_smaller=_next_smaller(chosen.model))
    return chosen, tuple(seen)


def _too_slow(choice: Choice, policy: Policy) -> str | None:
    expected = choice.expected_tokens_per_s
    if expected is None or expected >= policy.tokens_per_s_min:
        return None
    return f"about {expected:.1f} tokens/s, tokens_per_s_min is {policy.tokens_per_s_min:g}"


def _pool(policy: Policy) -> tuple[ModelTag, ...]:
    """The tags to try, best first."""
    if policy.tag:
        return (catalog.find_tag(policy.tag, policy.model),)
    known = {(model.size, model.quantisation): model for model in catalog.models()}
    wanted = ((size, quant) for size in policy.sizes for quant in policy.quantisations)
    return tuple(known[key] for key in wanted if key in known)


def _next_smaller(model: ModelTag) -> str | None:
    below = [
        other
        for other in catalog.models()
        if other.automatic and other.size_bytes < model.size_bytes
    ]
    return max(below, key=lambda other: other.size_bytes).tag if below else None


def _unforced(choice: Choice, hardware: Hardware, policy: Policy) -> str | None:
    """The tag that would be chosen if none were forced."""
    if not policy.tag:
        return None
    free = choose(hardware, replace(policy, tag=None)).choice
    return free.tag if free else None


def _refusal(hardware: Hardware, usable: tuple[Gpu, ...], policy: Policy) -> str:
    """Why there is no choice, and the way out, in one line."""
    smallest = _pool(policy)[-1]
    if _cpu_allowed(policy) and (not usable or hardware.ram_mib):
        why = on_cpu(smallest, hardware, policy)
        if isinstance(why, Choice):
            why = f"would run at {_too_slow(with_speed(why, hardware), policy)}"
        return f"no model fits this host: {smallest.tag} {why}; lower context_min or add memory"
    if not usable:
        return f"{_why_no_gpu(hardware)}; set no_gpu to cpu to run a small model without one"
    name = f"the forced tag {policy.tag}" if policy.tag else f"even {smallest.tag}, the smallest,"
    why = _attempt(smallest, usable, hardware, policy)
    if isinstance(why, Choice):
        slow = _too_slow(with_speed(why, hardware), policy)
        return f"{name} is too slow: {slow}; lower tokens_per_s_min"
    return f"{name} does not fit: it {why}; {_way_out(smallest, usable, policy)}"


def _why_no_gpu(hardware: Hardware) -> str:
    others = f"{', '.join(hardware.other_gpus)}: no working ROCm" if hardware.other_gpus else ""
    if hardware.gpus:
        old = ", ".join(
            f"{gpu.name} ({gpu.vram_mib} MiB, compute capability {dotted(gpu)})"
            for gpu in hardware.gpus
        )
        beside = f"; {others}" if others else ""
        return f"no usable GPU: {old}; Ollama needs compute capability 5.0 and a known size{beside}"
    if others:
        return f"no NVIDIA GPU, and {others} that tells its memory"
    return "no GPU"


def _way_out(smallest: ModelTag, usable: tuple[Gpu, ...], policy: Policy) -> str:
    if policy.tag:
        free = choose(
            Hardware(usable, 0, 0), replace(policy, tag=None, no_gpu="refuse", placement="gpu")
        )
        if free.choice:
            return f"leave tag out: {free.choice.tag} fits"
    for context in range(policy.context_min // CONTEXT_STEP * CONTEXT_STEP, 0, -CONTEXT_STEP):
        less = replace(policy, context_min=context, context_max=context)
        if isinstance(on_gpus(smallest, usable, less), Choice):
            return f"lower context_min to {context}"
    return "set no_gpu to cpu, or use a larger GPU"


def _largest_first(card: Gpu) -> tuple[int, int, str]:
    return (-card.vram_mib, card.index, card.mig_uuid)
