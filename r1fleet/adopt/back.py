"""The way back: what r1fleet took the place of is put back, with its models, when r1fleet goes."""

from collections.abc import Generator, Mapping
from typing import Any

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.adopt.install import script
from r1fleet.adopt.plan import Taking, takings
from r1fleet.longstep import long_step
from r1fleet.remote import step
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]


@operation()
def bring_back(state: Mapping[str, Any], models_dir: str, owner: int) -> Commands:
    """Put back all that state.json has noted. The engine must be gone, and its models still there.

    A person's own `ollama serve` is not started: only its models are still where they were.

    + state: state.json
    + models_dir: r1fleet's model directory
    + owner: the user id that it belongs to
    """
    for taking in takings(state, finished=True):
        if taking.models and not taking.stays:
            yield long_step(
                "adopt",
                f"takes the models along to {taking.models}",
                "r1fleet-adopt",
                models_back(taking, models_dir, owner),
                f"they stay in {models_dir}",
                change=f"models back in {taking.models}",
            )
        yield step(
            "adopt",
            f"brings back {taking.text}",
            back(taking),
            "start it by hand",
            change=f"{taking.text} is back",
        )


def models_back(taking: Taking, models_dir: str, owner: int) -> str:
    """A script that gives its models to it again: as taking them, the other way round."""
    values = {"OLD": models_dir, "NEW": taking.models, "OWNER": str(owner)}
    return assign({**values, "USER": str(taking.owner)}) + script("take.sh")


def back(taking: Taking) -> str:
    """A script that puts back its files and starts it."""
    values = {"KIND": taking.kind, "NAME": taking.name, "UNIT_FILE": taking.unit_file}
    values |= {"RESTART": taking.restart, "ENABLED": "yes" if taking.enabled else ""}
    return assign({**values, "KEPT": paths.ADOPTED_DIR}) + script("back.sh")
