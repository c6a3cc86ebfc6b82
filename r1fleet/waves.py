"""Who goes when: from what every host shows to canaries and batches, and whether to go on. Pure.

A change reaches a few hosts first and is proven there. Hosts without a change, and hosts that
serve nobody yet, wait for none of this.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Ending = Literal["verified", "failed", "lost", "held"]

NO_GPU = "no GPU"


@dataclass(frozen=True)
class Member:
    """One host as the planner sees it.

    + gpus: the models of its cards; empty counts as a model of its own
    + stand: "as wanted", "pending" (a change waits), "other" (nothing to roll out: a proof that is
      too old, a host that is refused), "away" (unreachable, held, in maintenance)
    + serves: somebody may be using it now
    + target: equal for hosts of which the same is wanted
    """

    name: str
    gpus: frozenset[str]
    vram_mib: int
    stand: Literal["as wanted", "pending", "other", "away"]
    serves: bool
    target: str

    @property
    def kinds(self) -> frozenset[str]:
        return self.gpus or frozenset({NO_GPU})


@dataclass(frozen=True)
class Wave:
    """Hosts that go together; `number` counts from 1."""

    number: int
    hosts: tuple[str, ...]
    canary: bool = False

    def __str__(self) -> str:
        return f"wave {self.number}{' (canaries)' if self.canary else ''}"


@dataclass(frozen=True)
class Plan:
    """A rollout: `at_once` waits for nobody; `blocked` says why no wave may begin."""

    at_once: tuple[str, ...] = ()
    waves: tuple[Wave, ...] = ()
    blocked: str | None = None

    def wave_of(self, host: str) -> int | None:
        """The number of a host's wave, 0 for at once, None when it takes no part."""
        if host in self.at_once:
            return 0
        return next((wave.number for wave in self.waves if host in wave.hosts), None)

    @property
    def steps(self) -> int:
        """How many groups go one after the other; the first wave goes with those at once."""
        return max(1, len(self.waves))

    def group(self, step: int) -> frozenset[str]:
        """The hosts of a step, counted from 0."""
        wave = self.waves[step].hosts if step < len(self.waves) else ()
        return frozenset((*wave, *(self.at_once if step == 0 else ())))


def plan(members: Sequence[Member], canary: int | Collection[str], batch: int | str) -> Plan:
    """The waves of a run. `canary` and `batch` are the settings rollout_canary, rollout_batch.

    Each host that serves and has a change pending is in exactly one wave.
    """
    names = frozenset() if isinstance(canary, int) else frozenset(canary)
    named = [member for member in members if member.name in names]
    going = [
        member
        for member in members
        if member.stand == "pending" and (member.serves or member in named)
    ]
    at_once = tuple(
        member.name for member in members if member.stand != "away" and member not in going
    )
    if len(going) <= 1:
        return Plan(at_once, tuple(Wave(1, (member.name,)) for member in going))
    if named:
        first = [member for member in going if member in named]
        proven = any(member.stand == "as wanted" for member in named)
        blocked = None if first or proven else _no_canary(named)
    else:
        number = canary if isinstance(canary, int) else 1  # none of those named is in this run
        first, blocked = canaries(members, going, number), None
    rest = _mixed([member for member in going if member not in first])
    size = batch_size(batch, len(going))
    groups = [first] if first else []
    groups += [rest[begin : begin + size] for begin in range(0, len(rest), size)]
    waves = tuple(
        Wave(number, tuple(member.name for member in group), group is first)
        for number, group in enumerate(groups, 1)
    )
    return Plan(at_once, waves, blocked)


def canaries(members: Sequence[Member], going: Sequence[Member], number: int) -> list[Member]:
    """`number` hosts of each GPU model, as few hosts as that takes, and small ones first.

    A model of which enough hosts are as wanted already needs no canary: that is how a rollout
    that was interrupted goes on. They must be wanted to be what those that wait should become.
    """
    wanting = {kind: number - _proven(members, going, kind) for kind in _kinds(going) if number > 0}
    chosen: list[Member] = []
    left = list(going)
    while any(count > 0 for count in wanting.values()):
        best = min(left, key=_by_use(wanting), default=None)
        if best is None or not _use(best, wanting):
            break  # there are not so many of some model
        left.remove(best)
        chosen.append(best)
        for kind in best.kinds:
            wanting[kind] -= 1
    return chosen


def batch_size(batch: int | str, going: int) -> int:
    """Hosts of a batch: the number, or that share of all that wait, at least one."""
    if isinstance(batch, int):
        return batch
    return max(1, -(-going * int(batch.removesuffix("%")) // 100))


def stop_reason(
    waves: Sequence[Wave],
    endings: Mapping[str, Ending],
    *,
    max_failed: int,
    max_unreachable: int,
) -> str | None:
    """Why the rollout may not go on after these waves; None when it may."""
    hosts = [host for wave in waves for host in wave.hosts]
    failed = [host for host in hosts if endings.get(host, "failed") == "failed"]
    lost = [host for host in hosts if endings.get(host) == "lost"]
    if len(failed) > max_failed:
        return f"{', '.join(failed)} failed (rollout_max_failed is {max_failed})"
    if len(lost) > max_unreachable:
        names = ", ".join(lost)
        return f"the connection to {names} broke (rollout_max_unreachable is {max_unreachable})"
    for wave in waves:
        if wave.canary and not any(endings.get(host) == "verified" for host in wave.hosts):
            return f"no canary was proven ({', '.join(wave.hosts)})"
    return None


def _proven(members: Sequence[Member], going: Sequence[Member], kind: str) -> int:
    """Hosts of a GPU model that are already what all that wait of that model should become."""
    targets = {member.target for member in going if kind in member.kinds}
    counts = [
        sum(
            member.stand == "as wanted" and kind in member.kinds and member.target == target
            for member in members
        )
        for target in targets
    ]
    return min(counts, default=0)


def _kinds(members: Sequence[Member]) -> list[str]:
    return sorted({kind for member in members for kind in member.kinds})


def _use(member: Member, wanting: Mapping[str, int]) -> int:
    return sum(wanting.get(kind, 0) > 0 for kind in member.kinds)


def _by_use(wanting: Mapping[str, int]) -> Callable[[Member], tuple[int, int, str]]:
    return lambda member: (-_use(member, wanting), member.vram_mib, member.name)


def _mixed(members: Sequence[Member]) -> list[Member]:
    """In an order in which no batch takes all hosts of one kind, where that can be had."""
    seen: dict[frozenset[str], int] = {}
    places = {}
    for member in members:
        places[member.name] = seen[member.kinds] = seen.get(member.kinds, -1) + 1
    return sorted(members, key=lambda member: places[member.name])


def _no_canary(named: Sequence[Member]) -> str:
    names = ", ".join(member.name for member in named)
    return f"none of the canaries that rollout_canary names can take part ({names})"
