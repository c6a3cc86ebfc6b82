"""The way back: what r1fleet took the place of is put back, with its models, when r1fleet goes."""

from collections.abc import Generator, Mapping
from typing import Any

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import paths
from r1fleet.adopt.install import script
from r1fleet.adopt.plan import Taking, takings
from r1fleet.longstep import long_step
from r1fleet.remote import HostFailure, changed, host_task, run, say, step, warn
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]


@operation()
def bring_back(state: Mapping[str, Any], models_dir: str, owner: str) -> Commands:
    """Put back all that state.json has noted. The engine must be gone, and its models still there.

    A person's own `ollama serve` is not started: only its models are still where they were.

    + state: state.json
    + models_dir: r1fleet's model directory
    + owner: the user that it belongs to
    """
    # Also what was begun only: it may be stopped already.
    for taking in (*takings(state, finished=True), *takings(state, finished=False)):
        if taking.models and taking.stays:
            yield step(
                "adopt",
                f"gives the models of {taking.models} back to their owner",
                given_back(taking, models_dir),
                f"chown what lies in {taking.models}/blobs",
            )
        elif taking.models:
            yield long_step(
                "adopt",
                f"takes the models along to {taking.models}",
                "r1fleet-adopt",
                models_back(taking, models_dir, owner),
                f"they stay in {models_dir}",
                change=f"models back in {taking.models}",
            )
        yield put_back(taking)


@host_task
def put_back(host: Host, taking: Taking) -> None:
    """Put back its files and start it; what somebody has put in their place is told."""
    title = f"brings back {taking.text}"
    say(host, "adopt", title)
    answer = run(host, back(taking), timeout_s=600)
    if not answer.ok:
        raise HostFailure(title, answer.reason, "start it by hand")
    for line in answer.stdout.splitlines():
        warn(host, line)
    changed(host, f"{taking.text} is back")


def given_back(taking: Taking, models_dir: str) -> str:
    """A script that gives its owner the files that have a name in both folders."""
    values = {"MODELS": models_dir, "THERE": taking.models, "OWNER": str(taking.owner)}
    return assign(values) + script("give.sh")


def models_back(taking: Taking, models_dir: str, owner: str) -> str:
    """A script that gives its models to it again: as taking them, the other way round."""
    values = {"OLD": models_dir, "NEW": taking.models, "OWNER": owner}
    return assign({**values, "USER": str(taking.owner)}) + script("take.sh")


def back(taking: Taking) -> str:
    """A script that puts back its files and starts it."""
    values = {"KIND": taking.kind, "NAME": taking.name, "UNIT_FILE": taking.unit_file}
    values |= {"RESTART": taking.restart, "ENABLED": "yes" if taking.enabled else ""}
    return assign({**values, "KEPT": paths.ADOPTED_DIR}) + script("back.sh")
