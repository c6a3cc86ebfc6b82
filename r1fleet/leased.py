"""A host's work under its lease, with a line of history at its end; and the same as a dry run."""

from collections.abc import Callable, Generator
from dataclasses import replace

from pyinfra.api import FunctionCommand

from r1fleet import history, lease
from r1fleet.fleet import HostRun
from r1fleet.remote import is_refusal, refusal_text, shows, title

Commands = Generator[FunctionCommand, None, None]
Plan = Callable[[HostRun], Commands]


def leased(run: HostRun, plan: Plan) -> Commands:
    """The commands of `plan`, once the host is ours and looked at again: others may have been there
    since. Nothing is taken where there is nothing to do."""
    holder = lease.holder(run.probe) if run.probe else None
    if holder and not run.settings.steal:
        yield lease.leave_alone(holder)
    first = next(plan(run), None)
    if first and is_refusal(first):
        yield first
    if first:
        assert run.probe
        # Before the lease: from its first moment on there is someone who gives it back.
        watch = history.Watch(run)
        yield lease.take("lease", "takes the host's lease", run.probe, run.settings.steal)
        run.look()
        watch.begin()
        for command in plan(run):
            yield watch.over(command)
        yield history.close()


def rehearse(run: HostRun, plan: Plan) -> tuple[list[str], str | None]:
    """What `plan` would do, one line per step, and why it would stop there, if it would.

    From the probe alone: nothing is asked of the host.
    """
    steps: list[str] = []
    for command in plan(replace(run, rehearsing=True)):
        told = [f"    {line}" for line in shows(command)]
        if is_refusal(command):
            return [*steps, *told], refusal_text(command)
        steps += [title(command), *told]
    return steps, None
