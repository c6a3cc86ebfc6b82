"""The manifest of a model that is made of one GGUF file, as Ollama keeps it. Pure.

Ollama's own create writes the whole file anew, under another checksum; a manifest beside the file
as it is needs no engine and is the same on every host. Template and thinking are taken by Ollama
from the file's own chat template.
"""

import hashlib
import json

from r1fleet.model.manifest import ModelSource

MODEL_LAYER = "application/vnd.ollama.image.model"
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def config(source: ModelSource) -> str:
    """The config blob; always the same bytes for the same file."""
    return _json(
        {
            "model_format": "gguf",
            "model_family": "",
            "model_type": "",
            "file_type": "",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [source.digest]},
        }
    )


def config_hex(source: ModelSource) -> str:
    """SHA-256 of the config blob."""
    return hashlib.sha256(config(source).encode()).hexdigest()


def manifest(source: ModelSource, size_bytes: int) -> bytes:
    """The manifest's bytes for a file of this size."""
    made = config(source)
    described = {"mediaType": CONFIG, "digest": f"sha256:{config_hex(source)}", "size": len(made)}
    layer = {"mediaType": MODEL_LAYER, "digest": source.digest, "size": size_bytes}
    whole = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [layer]}
    return _json(whole).encode()


def _json(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))
