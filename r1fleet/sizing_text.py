"""Words of sizing for people: cards, wishes, sums of MiB."""

from collections import Counter

from r1fleet.sizing_types import Gpu, Policy


def join(numbers: tuple[int, ...]) -> str:
    """Figures of several cards: "5123 + 4800"."""
    return " + ".join(str(number) for number in numbers)


def names(cards: tuple[Gpu, ...]) -> str:
    """Cards by name: "2 x Tesla T4 and L4"."""
    count = Counter(card.name for card in cards)
    return " and ".join(f"{n} x {name}" if n > 1 else name for name, n in count.items())


def wish(policy: Policy) -> str:
    """What must fit at least."""
    requests = f" for {policy.parallel} requests at once" if policy.parallel > 1 else ""
    beside = f" beside {', '.join(policy.extra_models)}" if policy.extra_models else ""
    return f"context {policy.context_min}{requests}{beside}"


def dotted(gpu: Gpu) -> str:
    """Compute capability: "8.6"."""
    return ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else "unknown"
