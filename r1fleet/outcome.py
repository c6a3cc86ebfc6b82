"""What a run has learned and done, host by host: the report is made of this at the end."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from r1fleet.hostfacts import Probe
from r1fleet.moving import Moving
from r1fleet.waves import Ending, Plan

if TYPE_CHECKING:  # hosts are asked before it is worked out what fits them
    from r1fleet.sizing import Sizing

Failed = Literal["failed", "lost", "held"]


@dataclass(frozen=True)
class Smoke:
    """Figures of a smoke prompt. `residency` is 0 to 1; `at` is UTC, ISO 8601."""

    at: str
    answer: str
    thinking: str
    load_s: float
    tokens_per_s: float
    residency: float
    context: int
    digest: str


@dataclass
class Outcome:
    """One host in this run."""

    probe: Probe | None = None
    sizing: "Sizing | None" = None
    kept_over: str | None = None  # what would be chosen now in place of what was decided before
    notes: list[str] = field(default_factory=list)  # worth knowing, nothing to do
    pending: list[str] | None = None  # what a dry run found to do; None: it did not look
    refusal: str | None = None  # why a dry run would stop there
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    smoke: Smoke | None = None
    failure: str | None = None
    failed_as: Failed = "failed"
    maintenance: str | None = None  # why it is left alone, whatever it is
    held: str | None = None  # by whom, seen before anything was done
    untouched: str | None = None  # why the rollout never reached it
    settings: str | None = None  # the stamp of what the settings make of it, when it is known
    caught: str | None = None  # a failure that is handed to the way back (rollback/guard.py)
    rolled_back: bool = False  # it serves again what it served before, and has proven it
    serves: str | None = None  # the model that it went back to
    brought: list[dict[str, Any]] = field(default_factory=list)  # models that this run fetched
    golden: list[dict[str, Any]] = field(default_factory=list)  # rows of golden.compared
    mirrors: bool = False  # it is a mirror that works
    done: bool = False  # every stage passed
    stage: str = ""  # where it is now, for "interrupted in ..."
    doing: str = ""  # in the words of its last line
    since_s: float = 0.0  # by the monotonic clock
    told_s: float = 0.0  # when a line said so last
    moving: Moving | None = None  # a download that it waits for

    def at(self, stage: str, doing: str) -> None:
        """Note what it does from now on."""
        self.stage, self.doing, self.moving = stage, doing, None
        self.since_s = self.told_s = time.monotonic()

    @property
    def ending(self) -> Ending:
        """How its wave ended for it."""
        return "verified" if self.done else self.failed_as

    def note(self, warnings: list[str]) -> None:
        """Keep warnings, each once: a host is planned more than once in a run."""
        self.warnings += [line for line in warnings if line not in self.warnings]


@dataclass
class Rollout:
    """The waves of this run, and why they stopped, if they did."""

    plan: Plan | None = None
    stopped: str | None = None
    fix: str = ""  # what to do then

    @property
    def first(self) -> tuple[str, ...]:
        """The hosts of the first wave."""
        return self.plan.waves[0].hosts if self.plan and self.plan.waves else ()


rollout = Rollout()
_outcomes: dict[str, Outcome] = {}


def of(host: str) -> Outcome:
    """The outcome of a host by its name in the inventory; made at first use."""
    return _outcomes.setdefault(host, Outcome())


def forget(host: str) -> None:
    """Begin anew with a host, for commands that look at it more than once."""
    _outcomes.pop(host, None)
