"""The way back by hand: pyinfra INVENTORY rollback.py (docs/alias.md)."""

from collections.abc import Generator
from dataclasses import replace

from pyinfra.api import FunctionCommand, operation

from r1fleet import outcome
from r1fleet.fleet import HostRun
from r1fleet.remote import fail, title
from r1fleet.rollback.guard import guarded
from r1fleet.rollback.restore import Restoration, restore, roll_back
from r1fleet.rollback.served import find, former

Commands = Generator[FunctionCommand, None, None]

AGAIN = (
    "went back by hand: deploy.py goes forward again as long as the settings ask for what was left"
)


@operation()
def back(run: HostRun) -> Commands:
    """Bring a host back to what it served before, or at a date, and prove it.

    + run: the host's settings and its probe, from `fleet.observe`; `to` is the date
    """
    found = outcome.of(run.host.name)
    if not (run.rehearsing or run.host.state.is_executing):
        steps = list(back._inner(replace(run, rehearsing=True)))
        found.pending = [title(command) for command in steps]
    probe = run.probe
    if probe is None:
        yield fail("probe", run.trouble, "look at the host, then run again")
        return
    now, to = find(probe.served, probe.state.get("served")), run.settings.to
    target = former(probe.served, probe.state.get("served"), to)
    if target is None:
        kept = ", ".join(sorted(probe.served)) or "nothing"
        yield fail("rollback", f"no such state is kept (kept is {kept})", "give another date")
        return
    if target == now:
        found.notes.append("serves that state already")
        found.done = True
        return
    failure = yield from guarded(run, restore._inner(run, Restoration(target)))
    if failure and now and now != target:
        yield from roll_back(run, now, failure)
    elif failure:
        yield fail("rollback", failure, "")
    if not run.rehearsing:
        found.notes.append(AGAIN)
        found.rolled_back = found.done = True
