"""The operation that keeps what a host serves, once it was proven."""

from collections.abc import Generator
from datetime import UTC, datetime
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.hostfacts import Probe
from r1fleet.remote import step
from r1fleet.rollback import served
from r1fleet.rollback.guard import optional
from r1fleet.rollback.served import Served
from r1fleet.shell import assign, receive

Commands = Generator[FunctionCommand, None, None]

META = f"{paths.SERVED_DIR}/meta"


@operation()
def keep(what: Served, probe: Probe) -> Commands:
    """Copy files and manifests into a folder of the host, by one rename, unless it is there.

    One that is there from an earlier time is dated anew: the last one before it is the former.

    + what: as proven by this run or by the one that state.json remembers
    + probe: the host as it is
    """
    kept = served.find(probe.served, what.id)
    if kept and (kept == max(probe.served) or probe.state.get("served") == what.id):
        return
    content = served.to_json(what)
    values = {
        "R1_HOME": paths.SERVED_DIR,
        "R1_NAME": served.name_of(what, datetime.now(UTC)),
        "R1_FORMER": kept or "",
        "R1_META": f"{META}.new",
        "R1_FILES": " ".join(what.files),
        "R1_MODELS": what.models_dir,
        "R1_PARTS": " ".join(parts(what)),
        "R1_KEEP": str(served.KEEP),
    }
    yield optional(
        step(
            "verify",
            "keeps what it serves, for a way back",
            f"install -d -m 700 {paths.SERVED_DIR} || exit 1\n"
            + receive(META, content)
            + assign(values)
            + script("keep.sh"),
            f"check the free space of {paths.STATE_DIR}",
            stdin=content,
            quiet=True,
        )
    )


def parts(what: Served) -> list[str]:
    """What is kept of the model directory, as paths in it."""
    manifests = [f"manifests/{path}" for path in what.manifests]
    return [*manifests, *(f"blobs/{name}" for name in what.small_blobs)]


def script(name: str) -> str:
    """A script of this folder, without its comments."""
    text = (resources.files("r1fleet.rollback") / name).read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
