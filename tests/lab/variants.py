"""Variants of a tag in the lab's registry, and of the engine on its artifact server."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import services
from lab.engine import archive, registry, tiny
from tests.lab.conftest import Lab


@contextmanager
def published(
    lab: Lab, folder: Path, name: str, *, answer: str = tiny.ANSWER
) -> Iterator[tuple[str, ...]]:
    """Another model of 14b's shape under a tag that the registry has; gives it back afterwards.

    Yields the flags that make the main job want its digest.
    """
    model = registry.Tag(f"variant {name} {answer}", "14b", "q4_K_M")
    manifest = registry.add_model(folder / "new", model, answer=answer)
    digest = _put(lab, folder / "new", name, manifest)[f"deepseek-r1:{name}"]
    before = lab.state.model_digests[f"deepseek-r1:{name}"]
    pins = {**lab.state.model_digests, f"deepseek-r1:{name}": digest}
    try:
        yield ("--data", f"model_digests={json.dumps(pins)}")
    finally:
        url = f"{lab.state.registry_url}/v2/{registry.REPOSITORY}/manifests/{before}"
        headers = {"Accept": registry.MANIFEST_TYPE}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
            _put(lab, folder / "old", name, reply.read())


def _put(lab: Lab, folder: Path, name: str, manifest: bytes) -> dict[str, str]:
    (folder / "manifests").mkdir(parents=True, exist_ok=True)
    (folder / "manifests" / name).write_bytes(manifest)
    return registry.publish(folder, lab.state.registry_url)


def broken_engine(folder: Path) -> tuple[str, ...]:
    """Put an engine that ends as soon as it is started on the artifact server; yields the flags
    that make the main job want it."""
    version = "0.32.99"
    program = folder / "ollama"
    program.write_text("#!/bin/sh\necho 'this one does not start' >&2\nexit 1\n")
    target = services.www_dir() / "ollama" / f"v{version}"
    digest = archive.write(target, {"bin/ollama": program, "lib/ollama/llama-server": program})
    return ("--data", f"engine_version={version}", "--data", f"engine_sha256={digest}")
