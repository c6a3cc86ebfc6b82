"""What the alias of a host should be. Pure.

The alias is a manifest of its own over the blobs of the model. Without a system prompt and
parameters it is the model's manifest, byte for byte; else it is what Ollama would make of the
Modelfile `FROM model`, `SYSTEM`, `PARAMETER`. Ollama knows a loaded model by the file of its
weights, so the alias is answered by the model that is loaded already.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.model.manifest import Blob, ManifestError, ModelManifest, manifest_path
from r1fleet.settings import Settings
from r1fleet.sizing import Choice

RENDERER = 1  # raise it when `render` gives other bytes
KNOWN_MOST = 6  # digests that are remembered as ours
_IMAGE = "application/vnd.ollama.image."


@dataclass(frozen=True)
class AliasWanted:
    """The names for one model, `source` with its manifest `digest`; all have the same content.

    + weights: digest of the file that holds the weights
    """

    names: tuple[str, ...]
    source: str
    digest: str
    weights: str
    system: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        return self.system is None and not self.parameters

    @property
    def rendering(self) -> str:
        """All that the content is made from besides the model; "" where it is the model's own."""
        if self.is_plain:
            return ""
        inputs = [RENDERER, self.system, dict(self.parameters)]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Rendered:
    """The alias's manifest, and the blobs that the model has not: file name -> content."""

    manifest: bytes
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def names(settings: Settings, choice: Choice) -> tuple[str, ...]:
    """The names that clients of this host may ask for."""
    if settings.alias is None:
        return ()
    more = (f"{settings.alias}-{choice.model.size.lower()}",) if settings.alias_class else ()
    return (settings.alias, *more)


def wanted(
    settings: Settings, choice: Choice, source: str, installed: ModelManifest
) -> AliasWanted:
    """The alias for a model that was delivered."""
    return AliasWanted(
        names=names(settings, choice),
        source=source,
        digest=installed.digest,
        weights=weights(installed.blobs),
        system=settings.alias_system,
        parameters=settings.alias_parameters,
    )


def weights(blobs: Iterable[Blob]) -> str:
    """Of a model's files the one with the weights: the largest."""
    return max(blobs, key=lambda blob: blob.size_bytes).digest


def foreign(settings: Settings, choice: Choice, probe: Probe) -> str | None:
    """A name of ours under which someone else keeps a model; None when there is none."""
    ours = {*_known(probe.state), *_installed(probe.state)}
    names_here = names(settings, choice)
    # A plain second name of a tag that stays is nobody's loss, also where state.json was.
    paths_here = {manifest_path(name) for name in names_here}
    family = manifest_path(f"{settings.model}:")
    ours |= {
        f"sha256:{digest}"
        for path, digest in probe.models.manifests.items()
        if path.startswith(family) and path not in paths_here
    }
    for name in names_here:
        found = probe.models.manifests.get(manifest_path(name))
        if found is not None and f"sha256:{found}" not in ours:
            return name
    return None


def record(state: Mapping[str, Any]) -> dict[str, Any]:
    """What state.json knows of the alias, with nothing in it when that cannot be read."""
    bare: dict[str, Any] = {"names": [], "of": "", "rendering": "", "digest": "", "blobs": {}}
    bare["known"] = []
    found = state.get("alias")
    merged = {**bare, **(found if isinstance(found, dict) else {})}
    sound = all(isinstance(merged[key], type(content)) for key, content in bare.items())
    return merged if sound else bare


def is_settled(want: AliasWanted, probe: Probe) -> bool:
    """Whether every name is as wanted, with its blobs, and no former one of ours is left."""
    known, manifests = record(probe.state), probe.models.manifests
    if not want.names:
        return not known["names"]
    same = (known["of"], known["rendering"]) == (want.digest, want.rendering)
    has_all = all(
        f"sha256:{manifests.get(manifest_path(name))}" == known["digest"] for name in want.names
    )
    whole = all(probe.models.blobs.get(file) == size for file, size in known["blobs"].items())
    return same and has_all and whole and known["names"] == list(want.names)


def leftovers(
    want: AliasWanted, state: Mapping[str, Any], store: ModelStore
) -> list[tuple[str, str]]:
    """Names that were ours and are no longer wanted, with their digest; as long as they hold what
    we put there."""
    rows = [
        (name, f"sha256:{store.manifests.get(manifest_path(name))}")
        for name in record(state)["names"]
        if name not in want.names
    ]
    return [(name, digest) for name, digest in rows if digest in _known(state)]


def entry(want: AliasWanted, rendered: Rendered, state: Mapping[str, Any]) -> dict[str, Any]:
    """What state.json is to know; `known` are all digests that were ours, the newest first."""
    if not want.names:
        bare = record({})
        return {**bare, "known": record(state)["known"]}
    known = {rendered.digest: want.weights}
    known |= {digest: of for digest, of in _known(state).items() if digest not in known}
    return {
        "names": list(want.names),
        "source": want.source,
        "of": want.digest,
        "rendering": want.rendering,
        "digest": rendered.digest,
        "blobs": {name: len(content) for name, content in rendered.blobs.items()},
        "known": [list(pair) for pair in known.items()][:KNOWN_MOST],
    }


def same_weights(state: Mapping[str, Any], weights_digest: str) -> frozenset[str]:
    """Digests of all names by which a model with these weights may have been loaded: bare hex.

    /api/ps shows the name and digest under which a model was loaded first.
    """
    known = {**_known(state), **_installed(state)}
    return frozenset(
        digest.removeprefix("sha256:") for digest, of in known.items() if of == weights_digest
    )


def _known(state: Mapping[str, Any]) -> dict[str, str]:
    """Digest of an alias of ours -> digest of its weights, the newest first."""
    pairs = [pair for pair in record(state)["known"] if isinstance(pair, list) and len(pair) == 2]
    return {str(digest): str(of) for digest, of in pairs}


def _installed(state: Mapping[str, Any]) -> dict[str, str]:
    """Digest -> weights of the models that state.json records, the former ones too."""
    models = state.get("models")
    former = state.get("former")
    rows = [*models.values()] if isinstance(models, dict) else []
    rows += former if isinstance(former, list) else []
    found = {}
    for row in rows:
        try:
            largest = max(row["layers"], key=lambda layer: int(layer["size"]))
            found[str(row["digest"])] = str(largest["digest"])
        except (KeyError, TypeError, ValueError):
            continue
    return found


def render(want: AliasWanted, manifest: bytes, blobs: Mapping[str, bytes]) -> Rendered:
    """The alias's manifest from the model's, as `ollama create` makes it.

    + blobs: content of the model's config and params blobs by digest

    Raises ManifestError when the model's own cannot be read.
    """
    if want.is_plain:
        return Rendered(manifest)
    try:
        source = json.loads(manifest)
        layers = [dict(layer) for layer in source["layers"]]
        config = json.loads(blobs[source["config"]["digest"]])
        old = [layer for layer in layers if layer["mediaType"] == f"{_IMAGE}params"]
        before: dict[str, object] = {}
        for layer in old:
            before |= json.loads(blobs[layer["digest"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"the manifest of {want.source} cannot be read: {error}") from error
    made: dict[str, bytes] = {}

    def layer_of(media_type: str, content: bytes) -> dict[str, object]:
        digest = digest_of(content)
        made[digest.replace(":", "-")] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    if want.system is not None:
        layers = [layer for layer in layers if layer["mediaType"] != f"{_IMAGE}system"]
        layers.append(layer_of(f"{_IMAGE}system", want.system.encode()))
    if want.parameters:
        layers = [layer for layer in layers if layer["mediaType"] != f"{_IMAGE}params"]
        merged = _go_json({**before, **want.parameters})
        layers.append(layer_of(f"{_IMAGE}params", merged))
    config["rootfs"] = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    made_config = layer_of(str(source["config"]["mediaType"]), _go_json(config, sort=False))
    content = {**source, "config": made_config, "layers": layers}
    return Rendered(_go_json(content, sort=False), made)


def params_digests(manifest: bytes) -> list[str]:
    """The small blobs that `render` reads, by digest. Raises ManifestError."""
    try:
        source = json.loads(manifest)
        layers = [x["digest"] for x in source["layers"] if x["mediaType"] == f"{_IMAGE}params"]
        return [str(digest) for digest in (source["config"]["digest"], *layers)]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"it cannot be read: {error}") from error


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _go_json(content: Mapping[str, object], *, sort: bool = True) -> bytes:
    """As Go's encoder writes it, so that equal settings give Ollama's own digests."""
    plain = {key: _as_go(value) for key, value in content.items()}
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=sort)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f"{text}\n".encode()


def _as_go(value: object) -> object:
    """Go writes 1.0 as 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
