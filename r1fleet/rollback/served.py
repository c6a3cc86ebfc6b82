"""What a host serves, as it is kept for a way back. Pure.

A snapshot is a folder of the host, `<time of the proof>-<id>`, with copies of all that was served
except the weights and the engine's own directory, and `meta.json`, which is a `Served`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from r1fleet import paths
from r1fleet.alias.wanted import weights
from r1fleet.hostfacts import Probe
from r1fleet.model.manifest import ModelManifest, manifest_path
from r1fleet.verify.extras import ExtraWanted
from r1fleet.verify.judge import SmokeWanted

SCHEMA = 1
KEEP = 5  # snapshots of a host, some kB each
STAMP = "%Y%m%dT%H%M%SZ"
ENGINE_FILES = (
    paths.ENGINE_ENV,
    paths.ENGINE_UNIT,
    paths.ENGINE_HARDENING,
    paths.WAIT_FOR_GPUS,
)
FILES = (*ENGINE_FILES, paths.PRELOAD_UNIT, paths.PRELOAD_BODY, paths.PRELOAD)


@dataclass(frozen=True)
class Served:
    """What a host serves.

    + engine: what the `current` link names
    + files: managed path -> sha256
    + manifests: path below manifests/ -> sha256, of the model and of its aliases
    + small_blobs, weights: file names in blobs/
    + proof, extras: what was asked, and is to be asked again after a rollback
    + state: the whole of state.json
    """

    engine: str
    files: Mapping[str, str]
    model: str
    digest: str
    manifests: Mapping[str, str]
    small_blobs: tuple[str, ...]
    weights: str
    models_dir: str
    proof: Mapping[str, Any]
    extras: tuple[Mapping[str, Any], ...]
    state: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The same for the same things served, whenever and however they were proven."""
        whole = {key: value for key, value in asdict(self).items() if key not in _OF_THE_PROOF}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def smoke(self) -> SmokeWanted:
        return SmokeWanted(**self.proof)

    @property
    def extras_wanted(self) -> tuple[ExtraWanted, ...]:
        return tuple(ExtraWanted(**extra) for extra in self.extras)


_OF_THE_PROOF = ("proof", "extras", "state")


def served(
    probe: Probe,
    proof: SmokeWanted,
    extras: Iterable[ExtraWanted],
    installed: ModelManifest,
    aliases: Iterable[str],
    alias_blobs: Iterable[str],
    models_dir: str,
    state: Mapping[str, Any],
) -> Served:
    """What the last probe of a run shows, as it was proven. Pure."""
    names = (proof.model, *aliases)
    found = {manifest_path(name): probe.models.manifests.get(manifest_path(name)) for name in names}
    heavy = weights(installed.blobs)
    small = {blob.file_name for blob in installed.blobs if blob.digest != heavy}
    return Served(
        engine=probe.engine_current or "",
        files={path: probe.files[path] for path in FILES if path in probe.files},
        model=proof.model,
        digest=proof.digest,
        manifests={path: digest for path, digest in found.items() if digest},
        small_blobs=tuple(sorted(small | set(alias_blobs))),
        weights=heavy.replace(":", "-"),
        models_dir=models_dir,
        proof={**asdict(proof), "same_weights": ()},
        extras=tuple(asdict(extra) for extra in extras),
        state=state,
    )


def to_json(what: Served) -> str:
    """The content of meta.json."""
    return json.dumps({"schema": SCHEMA, **asdict(what)}, indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> Served:
    """Read meta.json. Raises ValueError when it is damaged or of a newer r1fleet."""
    try:
        content = json.loads(text)
        schema = content.pop("schema")
        if schema != SCHEMA:
            raise ValueError(f"it was kept by another r1fleet (schema {schema}, known is {SCHEMA})")
        proof = {**content["proof"], "same_weights": ()}
        lists = {key: tuple(content[key]) for key in ("small_blobs", "extras")}
        found = Served(**{**content, **lists, "proof": proof})
        _ = found.smoke, found.extras_wanted
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    return found


def name_of(what: Served, now: datetime) -> str:
    """The name of its folder."""
    return f"{now.astimezone(UTC).strftime(STAMP)}-{what.id}"


def find(names: Iterable[str], served_id: object) -> str | None:
    """The newest folder of what state.json calls `served`; None when it was not kept."""
    found = [name for name in names if name.partition("-")[2] == served_id]
    return max(found, default=None)


def former(names: Iterable[str], served_id: object, to: str | None) -> str | None:
    """The folder to go back to: the last one before what is served now, or the last one of a day.

    + to: a moment in ISO 8601 with its zone; the last one not after it
    """
    listed = sorted(name for name in names if name.partition("-")[2] != served_id)
    if to is not None:
        limit = datetime.fromisoformat(to).astimezone(UTC).strftime(STAMP)
        every = sorted(names)
        return max((name for name in every if name.partition("-")[0] <= limit), default=None)
    now = find(names, served_id)
    return max((name for name in listed if now is None or name < now), default=None)
