"""Operations that take over an Ollama that is there already, in the order in which they are used.

It goes on serving until r1fleet's engine is about to start. What was begun is noted in state.json
first, so that a run which was cut off is gone on with, whatever the host shows by then.
"""

from collections.abc import Generator, Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.adopt.plan import Taking, noted
from r1fleet.drain import wait
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.remote import step
from r1fleet.shell import assign
from r1fleet.verify.fingerprint import SCHEMA
from r1fleet.verify.smoke import write_state

Commands = Generator[FunctionCommand, None, None]


def begun(state: Mapping[str, Any], takings: Iterable[Taking]) -> dict[str, Any]:
    """state.json with what is about to be taken over, in place of what was begun before."""
    rows = [row for row in noted(state) if "at" in row]
    rows += [taking.entry() for taking in takings]
    return {"schema": SCHEMA, **state, "adopted": rows}


def finished(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of state.json once all is proven."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [{"at": now, **row} for row in noted(state)]


@operation()
def take(takings: tuple[Taking, ...], probe: Probe, models_dir: str) -> Commands:
    """Note what is taken over, and take its models along, without any download.

    + takings: as planned
    + probe: the host as it is
    + models_dir: of the service user, made
    """
    yield from write_state._inner(begun(probe.state, takings), probe.state)
    for taking in takings:
        if taking.models and taking.models != models_dir:
            values = {"OLD": taking.models, "NEW": models_dir, "OWNER": str(taking.owner)}
            yield long_step(
                "adopt",
                f"takes the models of {taking.models} along to {models_dir}",
                "r1fleet-adopt",
                assign({**values, "USER": "ollama"}) + script("take.sh"),
                f"free some space, or set ollama_models to {taking.models} to leave them there",
                change=f"models of {taking.models}",
            )


@operation()
def stop(takings: tuple[Taking, ...], probe: Probe, port: int, limit_s: int) -> Commands:
    """End what is taken over, once it has answered what it was asked.

    + takings: as planned
    + probe: the host as it is
    + port: of the engine
    + limit_s: how long requests are waited for; 0 does not wait
    """
    for taking in takings:
        if limit_s and probe.loaded and taking.pid:
            title = f"waits for requests to {taking.text}"
            yield wait("adopt", title, limit_s, root=taking.root, pid=taking.pid, port=port)
        values = {"KIND": taking.kind, "NAME": taking.name, "PID": str(taking.pid)}
        values |= {"UNIT_FILE": taking.unit_file, "KEPT": paths.ADOPTED_DIR}
        yield step(
            "adopt",
            f"takes the place of {taking.text}",
            assign(values) + script("stop.sh"),
            "stop it by hand, then run again",
            change=f"in place of {taking.text}",
        )


@operation()
def leave(takings: tuple[Taking, ...], models_dir: str) -> Commands:
    """Let the former model directories go, but for those whose models keep their names there.

    + takings: as planned
    + models_dir: where their models are now
    """
    for taking in takings:
        if taking.models and not taking.stays:
            values = {"OLD": taking.models, "NEW": models_dir, "OWNER": str(taking.owner)}
            yield step(
                "adopt",
                f"leaves {taking.models}",
                assign(values) + script("leave.sh"),
                "look at it; nothing there is needed any more",
            )


def script(name: str) -> str:
    """One of this folder's scripts, without its comments."""
    text = (resources.files("r1fleet.adopt") / name).read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
