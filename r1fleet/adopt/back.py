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

# By the names in r1fleet's own folder, and only where it is the very same file.
_GIVE_BACK = """
cd "$OURS/blobs" 2>/dev/null || exit 0
group=$(id -g "$OWNER" 2>/dev/null) || group=$OWNER
for blob in sha256-*; do
  [ ! "$blob" -ef "$THEIRS/blobs/$blob" ] || chown -h "$OWNER:$group" "$blob" || exit 1
done
"""

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
        if taking.models and not taking.stays:
            yield long_step(
                "adopt",
                f"takes the models along to {taking.models}",
                "r1fleet-adopt",
                models_back(taking, models_dir, owner),
                f"they stay in {models_dir}",
                change=f"models back in {taking.models}",
            )
        if taking.models and taking.stays:
            names = {"OURS": models_dir, "THEIRS": taking.models, "OWNER": str(taking.owner)}
            yield step(
                "adopt",
                f"gives the models of {taking.models} back to whom they belong",
                assign(names) + _GIVE_BACK,
                f"chown them by hand: {taking.models}",
                quiet=True,
            )
        yield step(
            "adopt",
            f"brings back {taking.text}",
            back(taking),
            "start it by hand",
            change=f"{taking.text} is back",
        )


def models_back(taking: Taking, models_dir: str, owner: str) -> str:
    """A script that gives its models to it again: as taking them, the other way round."""
    values = {"OLD": models_dir, "NEW": taking.models, "OWNER": owner}
    return assign({**values, "USER": str(taking.owner)}) + script("take.sh")


def back(taking: Taking) -> str:
    """A script that puts back its files and starts it."""
    values = {"KIND": taking.kind, "NAME": taking.name, "UNIT_FILE": taking.unit_file}
    values |= {"RESTART": taking.restart, "ENABLED": "yes" if taking.enabled else ""}
    return assign({**values, "KEPT": paths.ADOPTED_DIR}) + script("back.sh")
