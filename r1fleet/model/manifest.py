"""Manifests of models: reading, checking, and what a host lacks. Pure.

A model's identity is the SHA-256 of its manifest's bytes as served (what `ollama list` shows as
ID, cut to 12 hex); names and tags move. Sizes are in bytes, digests read "sha256:<64 hex>".
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from r1fleet.hostfacts import ModelStore

REGISTRY = "registry.ollama.ai"  # the folder in which Ollama looks for plain names
STAGING = ".r1fleet-staging"  # beside blobs/: Ollama's start prunes unknown files in there
GIB = 1 << 30

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(
    r"([a-z0-9_][a-z0-9_-]{0,79}/)?[a-z0-9][a-z0-9._-]{0,79}:[A-Za-z0-9_][A-Za-z0-9._-]{0,79}"
)
_URL = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~+@/-]*)?")
_FILE_URL = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~%+@/-]*)?")
_RATE = re.compile(r"([1-9][0-9]{0,14})([KMG]?)")


class ManifestError(ValueError):
    """What was served is no manifest of a model; the message says in what."""


@dataclass(frozen=True)
class ModelSource:
    """A GGUF file: on the laptop ("file"), on the host ("path") or at a "url"; `place` says where.

    Raises ValueError for what is no such place or no SHA-256.
    """

    kind: Literal["file", "path", "url"]
    place: str
    sha256: str

    def __post_init__(self) -> None:
        sound = {
            "file": self.place.isprintable(),
            "path": re.fullmatch(r"/[A-Za-z0-9._@+/-]+", self.place, re.ASCII),
            "url": _FILE_URL.fullmatch(self.place),
        }.get(self.kind)
        if not sound or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"no usable source: {self.kind} {self.place!r} {self.sha256!r}")

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256}"


@dataclass(frozen=True)
class ModelWanted:
    """A model that a host should have.

    + name: plain name with its tag, "deepseek-r1:14b"; one without namespace is in library/
    + registry_url: where it is fetched from, http(s)://host[:port][/path]
    + models_dir: Ollama's model directory, absolute
    + digest: the manifest digest that it must have; None takes what is there or served
    + catalogue_digest: what we know it as, 64 hex or the first of them, "sha256:" before or not;
      another one is only warned of
    + rate_limit: for the whole download, bytes per second, "20M" (binary); None for none
    + via: "fetch" (a standard downloader, needs no engine) or "api" (Ollama's own pull)
    + engine_url: the running engine, for via "api"
    + proxies: variables such as https_proxy for the downloader
    + authorization: what the registry wants to be told, "Basic ..." or "Bearer ..."; a secret
    + deep_check: what is there is checked by its SHA-256 in every run
    + source: a GGUF file that the model is made of, in place of a registry
    + mirrored: registry_url is a mirror's, and fallback_url the source behind it, if that may be
      asked where the mirror fails
    + bundle: the bundle on this machine that it is sent from, in place of a registry

    Raises ValueError for anything that is not safe in a path, a URL or a script.
    """

    name: str
    registry_url: str
    models_dir: str
    digest: str | None = None
    catalogue_digest: str | None = None
    rate_limit: str | None = None
    via: Literal["fetch", "api"] = "fetch"
    engine_url: str = "http://127.0.0.1:11434"
    proxies: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    deep_check: bool = False
    source: ModelSource | None = None
    mirrored: bool = False
    fallback_url: str | None = None
    bundle: str | None = None

    def __post_init__(self) -> None:
        sound = {
            "name": _NAME.fullmatch(self.name),
            "registry_url": _URL.fullmatch(self.registry_url),
            "fallback_url": self.fallback_url is None or _URL.fullmatch(self.fallback_url),
            "models_dir": self.models_dir.startswith("/") and self.models_dir.isprintable(),
            "digest": self.digest is None or _DIGEST.fullmatch(self.digest),
            "rate_limit": self.rate_limit is None or _RATE.fullmatch(self.rate_limit),
            "engine_url": _URL.fullmatch(self.engine_url),
            "via": self.via == "fetch" or not (self.authorization or self.registry_path),
        }
        if wrong := [f"{key} {getattr(self, key)!r}" for key, ok in sound.items() if not ok]:
            raise ValueError(f"no usable model: {', '.join(wrong)}")

    def at_source(self) -> "ModelWanted | None":
        """The same model from behind its mirror; None where nothing else may be asked."""
        if self.fallback_url is None:
            return None
        return replace(self, registry_url=self.fallback_url, fallback_url=None, mirrored=False)

    @property
    def registry_path(self) -> str:
        return urlsplit(self.registry_url).path.strip("/")

    @property
    def by_engine(self) -> bool:
        """Whether the running engine is needed to bring it."""
        return self.via == "api" and self.source is None and self.bundle is None

    @property
    def path(self) -> str:
        """The name as registries know it, without its tag: library/deepseek-r1."""
        return _path(self.name)

    @property
    def tag(self) -> str:
        return self.name.partition(":")[2]

    @property
    def manifest_path(self) -> str:
        """Where Ollama keeps this name's manifest, below manifests/."""
        return manifest_path(self.name)

    @property
    def repository_url(self) -> str:
        """The name's root in the registry: .../manifests/TAG and .../blobs/DIGEST lie below."""
        return f"{self.registry_url.rstrip('/')}/v2/{self.path}"

    @property
    def bytes_per_s(self) -> int:
        """The rate limit as a number, 0 for none."""
        found = _RATE.fullmatch(self.rate_limit or "")
        scale = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        return int(found[1]) * scale[found[2]] if found else 0


@dataclass(frozen=True)
class Blob:
    digest: str
    size_bytes: int

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def file_name(self) -> str:
        return f"sha256-{self.hex}"


@dataclass(frozen=True)
class ModelManifest:
    """A model's identity and the files it needs, each once."""

    digest: str
    blobs: tuple[Blob, ...]

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.blobs)


Digest = Annotated[str, Field(pattern=rf"^{_DIGEST.pattern}$")]
SizeBytes = Annotated[int, Field(gt=0, lt=1 << 50, strict=True)]


class _Layer(BaseModel):
    digest: Digest
    size: SizeBytes


class _Served(BaseModel):
    """The registry's document, as far as we rely on it (facts: Docker manifest, schema 2)."""

    schemaVersion: Literal[2]
    config: _Layer
    layers: Annotated[list[_Layer], Field(min_length=1, max_length=1000)]


class _Recorded(BaseModel):
    digest: Digest
    layers: Annotated[list[_Layer], Field(min_length=1)]


def manifest_path(name: str) -> str:
    """Where Ollama keeps the manifest of a plain name with its tag, below manifests/."""
    return f"{REGISTRY}/{_path(name)}/{name.partition(':')[2]}"


def _path(name: str) -> str:
    model = name.partition(":")[0]
    return model if "/" in model else f"library/{model}"


def parse(raw: bytes) -> ModelManifest:
    """Read a manifest as served; its digest is taken from exactly these bytes.

    Raises ManifestError when it is malformed.
    """
    try:
        served = _Served.model_validate_json(raw)
    except ValidationError as error:
        raise ManifestError(_first_fault(error)) from error
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return ModelManifest(digest, _unique([*served.layers, served.config]))


def recorded(state: Mapping[str, Any], name: str, digest: str) -> ModelManifest | None:
    """The manifest of an installed model as state.json knows it; None when it does not."""
    models = state.get("models")
    entry = models.get(name) if isinstance(models, dict) else None
    try:
        known = _Recorded.model_validate(entry)
    except ValidationError:
        return None
    return ModelManifest(digest, _unique(known.layers)) if known.digest == digest else None


def state_entry(manifest: ModelManifest) -> dict[str, Any]:
    """What state.json records of an installed model, under models[name]."""
    layers = [{"digest": blob.digest, "size": blob.size_bytes} for blob in manifest.blobs]
    return {"digest": manifest.digest, "layers": layers}


def accepted_digest(want: ModelWanted, store: ModelStore) -> str | None:
    """The digest of the name's manifest on the host, if it is there and the one that is wanted."""
    found = store.manifests.get(want.manifest_path)
    if found is None or want.digest not in (None, f"sha256:{found}"):
        return None
    return f"sha256:{found}"


def installed_digests(store: ModelStore) -> dict[str, str]:
    """Digests of a host's models by the plain names that ModelWanted has."""
    found = {}
    for path, digest in store.manifests.items():
        host, _, rest = path.partition("/")
        model, _, tag = rest.removeprefix("library/").rpartition("/")
        if host == REGISTRY and model:
            found[f"{model}:{tag}"] = f"sha256:{digest}"
    return found


def missing(manifest: ModelManifest, blobs: Mapping[str, int]) -> tuple[Blob, ...]:
    """What is not in blobs/ (file name -> bytes) with its right size."""
    return tuple(blob for blob in manifest.blobs if blobs.get(blob.file_name) != blob.size_bytes)


def is_of_source(want: ModelWanted, manifest: ModelManifest) -> bool:
    """Whether an installed model was made of the file that is wanted; true without a source."""
    return want.source is None or want.source.digest in {blob.digest for blob in manifest.blobs}


def bytes_to_fetch(lacking: Iterable[Blob], staged: Mapping[str, int]) -> int:
    """Bytes still to come; `staged` is what lies half-fetched on the disk, hex -> bytes."""
    return sum(max(0, blob.size_bytes - staged.get(blob.hex, 0)) for blob in lacking)


def stray_bytes(manifest: ModelManifest, staged: Mapping[str, int]) -> int:
    """Bytes that other fetches left half-done; they go before this one begins."""
    wanted = {blob.hex for blob in manifest.blobs}
    return sum(size for name, size in staged.items() if name.partition(".")[0] not in wanted)


def reserve_bytes(disk_size_bytes: int) -> int:
    """What must stay free: 5 % of the filesystem or 1 GiB, whichever is less."""
    return min(disk_size_bytes // 20, GIB)


def human(size_bytes: float) -> str:
    """A size for people, decimal units: "9.0 GB"."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit:
            return f"{size_bytes / limit:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def _unique(layers: Iterable[_Layer]) -> tuple[Blob, ...]:
    sizes: dict[str, int] = {}
    for layer in layers:
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise ManifestError(f"{layer.digest} stands in it with two sizes")
    return tuple(Blob(digest, size) for digest, size in sizes.items())


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])
