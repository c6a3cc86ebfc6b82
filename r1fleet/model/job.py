"""The job of the unit that fetches a model: where it lies, what stands in it, what it runs."""

from functools import cache
from importlib import resources
from urllib.parse import urlsplit

from r1fleet import paths
from r1fleet.model.manifest import REGISTRY, ModelManifest, ModelWanted
from r1fleet.templates import env_quote

UPLOADS = ".r1fleet-upload"  # beside blobs/: files that come from the laptop


def folder(manifest: ModelManifest) -> str:
    """Where the job lies on the host."""
    return f"{paths.PULL_DIR}/{manifest.digest.removeprefix('sha256:')[:12]}"


def lines(want: ModelWanted, manifest: ModelManifest, *, deep: bool = False) -> str:
    """The job as fetch.sh reads it: only values that ModelWanted and the manifest have checked."""
    found = [
        f"models {want.models_dir}",
        f"url {want.repository_url}",
        f"path {want.manifest_path}",
        f"digest {manifest.digest}",
        f"limit {want.bytes_per_s}",
        f"name {want.name}",
        f"source {_name_at_source(want)}",
        f"insecure {str(want.registry_url.startswith('http://')).lower()}",
        f"engine {want.engine_url.rstrip('/')}",
        f"deep {'yes' if deep else 'no'}",
        *(f"from {url}" for url in _file_urls(want)),
        *(["from bundle"] if want.bundle else []),
        *(f"blob {blob.hex} {blob.size_bytes}" for blob in manifest.blobs),
    ]
    return "".join(f"{line}\n" for line in found)


@cache
def script() -> str:
    """What the unit runs."""
    home = resources.files("r1fleet.model")
    parts = ("fetch.sh", "fetch_engine.sh", "fetch_main.sh")
    return "\n".join((home / part).read_text(encoding="ascii") for part in parts)


def environment(want: ModelWanted) -> str:
    """Proxies and login may hold a password: they go by a file that only root reads."""
    values = dict(want.proxies) | ({"R1_AUTH": want.authorization} if want.authorization else {})
    found = [f"{name}={env_quote(value)}\n" for name, value in values.items()]
    return "".join(["# for downloads\n", *found])  # nothing at all would not be sent


def _file_urls(want: ModelWanted) -> list[str]:
    if want.source is None:
        return []
    if want.source.kind == "file":
        return [f"file://{want.models_dir}/{UPLOADS}/{want.source.sha256}"]
    return [f"file://{want.source.place}" if want.source.kind == "path" else want.source.place]


def _name_at_source(want: ModelWanted) -> str:
    """The name that Ollama's own pull takes; it knows no other way to name a registry."""
    registry = urlsplit(want.registry_url).netloc
    return want.name if registry == REGISTRY else f"{registry}/{want.path}:{want.tag}"
