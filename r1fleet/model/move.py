"""A model directory that is moved takes what it holds along: by hard links, or by a copy."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.model.manifest import ModelWanted, recorded
from r1fleet.remote import step
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]

# Only names of files that have another one in the new folder; on another filesystem nothing has.
_LEAVE = """
[ -d "$OLD/blobs" ] && [ ! "$OLD/blobs" -ef "$NEW/blobs" ] || exit 0
setpriv --reuid=ollama --regid=ollama --clear-groups sh -s <<'END'
for folder in blobs .r1fleet-staging; do
  for file in "$OLD/$folder"/*; do
    [ ! "$file" -ef "$NEW/$folder/${file##*/}" ] || rm -f "$file"
  done
done
rmdir "$OLD/blobs" 2>/dev/null && rm -rf "$OLD/manifests" "$OLD/.r1fleet-staging"
END
rmdir "$OLD" 2>/dev/null
exit 0
"""


def former(state: Mapping[str, Any], models_dir: str) -> str | None:
    """The model directory that state.json records, where it is another one now."""
    mount = state.get("models_mount")
    path = mount[0] if isinstance(mount, list) and len(mount) == 2 else None
    sound = isinstance(path, str) and path.startswith("/") and path.isprintable()
    return path if sound and path != models_dir else None


def after(models_dir: str, probe: Probe) -> Probe:
    """The probe as it will be after a move, by our records; the same one where nothing moves."""
    if former(probe.state, models_dir) is None:
        return probe
    manifests, blobs = dict(probe.models.manifests), dict(probe.models.blobs)
    models = probe.state.get("models")
    for name, entry in models.items() if isinstance(models, dict) else ():
        digest = str(entry.get("digest")) if isinstance(entry, dict) else ""
        if found := recorded(probe.state, name, digest):
            path = ModelWanted(name, "https://none", "/").manifest_path
            manifests.setdefault(path, digest.removeprefix("sha256:"))
            blobs |= {blob.file_name: blob.size_bytes for blob in found.blobs}
    return replace(probe, models=replace(probe.models, manifests=manifests, blobs=blobs))


@operation()
def take_along(old: str, new: str) -> Commands:
    """Bring all models of a former model directory into another one, without any download.

    The engine may be serving from the old one. A fetch into it is ended; what came is taken along.

    + old: the former directory; it may be gone
    + new: the directory that has been made for the service user
    """
    values = {"OLD": old, "NEW": new, "UNIT": paths.PULL_UNIT, "USER": "ollama"}
    script = (resources.files("r1fleet.model") / "move.sh").read_text(encoding="ascii")
    yield long_step(
        "pull",
        f"takes the models of {old} along to {new}",
        "r1fleet-move",
        assign(values) + script,
        "free some space or set ollama_models to a larger filesystem",
    )


@operation()
def leave(old: str, new: str) -> Commands:
    """Remove from a former model directory what hard links share with the new one.

    + old, new: as for take_along
    """
    yield step(
        "pull",
        f"leaves {old}",
        assign({"OLD": old, "NEW": new}) + "export OLD NEW\n" + _LEAVE,
        "look at it; nothing there is needed any more",
    )
