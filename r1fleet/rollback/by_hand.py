"""The way back by hand: pyinfra INVENTORY rollback.py (docs/alias.md)."""

from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from pyinfra.api import FunctionCommand, operation

from r1fleet import outcome
from r1fleet.fleet import HostRun
from r1fleet.leased import leased, rehearse
from r1fleet.outcome import Outcome
from r1fleet.remote import fail
from r1fleet.rollback.guard import guarded
from r1fleet.rollback.restore import Restoration, restore, roll_back
from r1fleet.rollback.served import find, former

Commands = Generator[FunctionCommand, None, None]

AGAIN = (
    "went back by hand: deploy.py goes forward again as long as the settings ask for what was left"
)
SAME = "serves that state already"


@dataclass(frozen=True)
class Turn:
    """Hosts that go back at the same time."""

    name: str
    hosts: frozenset[str]

    def __str__(self) -> str:
        return self.name


def turns(runs: Mapping[str, HostRun]) -> list[Turn]:
    """All hosts at once: a way back is urgent. Behind a fleet gateway every second of each kind of
    GPU first, so that its clients always have one that answers."""
    if not any(run.balancers for run in runs.values()):
        return [Turn("all hosts", frozenset(runs))]
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, run in runs.items():
        if run.probe and not run.balances:
            kinds[tuple(gpu.name for gpu in run.probe.driver.gpus)].append(name)
    first = {*[name for names in kinds.values() for name in names][::2]}
    return [
        Turn("one half", frozenset(first)),
        Turn("the other half", frozenset(set(runs) - first)),
    ]


@operation()
def back(run: HostRun) -> Commands:
    """Bring a host back to what it served before, or at a date, and prove it.

    + run: the host's settings and its probe, from `fleet.observe`; `to` is the date

    As in the main job: under the host's lease, with a line of history, and a host in maintenance or
    one that is only a mirror is left alone.
    """
    found = outcome.of(run.host.name)
    if found.maintenance:
        return
    if run.settings.serve:
        if not run.host.state.is_executing:
            found.pending, found.refusal = rehearse(run, way_back)
        yield from leased(run, way_back)
    found.done = True


def way_back(run: HostRun) -> Commands:
    """The commands, under whoever's lease they are."""
    found, probe = outcome.of(run.host.name), run.probe
    if probe is None:
        yield fail("probe", run.trouble, run.fix)
        return
    now, to = find(probe.served, probe.state.get("served")), run.settings.to
    target = former(probe.served, probe.state.get("served"), to)
    if target is None:
        kept = ", ".join(sorted(probe.served)) or "nothing"
        yield fail("rollback", f"no such state is kept (kept is {kept})", "give another date")
        return
    if target == now:
        _note(found, SAME)
        return
    going = Restoration(target)
    failure = yield from guarded(run, restore._inner(run, going))
    if failure and now:
        yield from roll_back(run, now, failure)
    elif failure:
        yield fail("rollback", failure, "")
    elif going.done == "same":  # state.json did not say so
        _note(found, SAME)
    elif not run.rehearsing:
        _note(found, AGAIN)
        found.rolled_back = True


def _note(found: Outcome, text: str) -> None:
    """Once: a host is planned more than once in a run."""
    if text not in found.notes:
        found.notes.append(text)
