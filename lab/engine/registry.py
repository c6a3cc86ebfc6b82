"""The registry's content: every deepseek-r1 tag as a tiny model, and its upload."""

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from lab.engine import tiny
from lab.engine.shapes import QUANTISATIONS, SHAPES, file_name

MODEL = "deepseek-r1"
REPOSITORY = f"library/{MODEL}"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
TIMEOUT_S = 30.0

# Families of tags: the shape behind each, and the short tags of its q4_K_M.
_FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "1.5b-qwen-distill": ("1.5b", ("1.5b",)),
    "7b-qwen-distill": ("7b", ("7b",)),
    "8b-0528-qwen3": ("8b", ("8b", "latest")),
    "8b-llama-distill": ("8b-llama", ()),
    "14b-qwen-distill": ("14b", ("14b",)),
    "32b-qwen-distill": ("32b", ("32b",)),
    "70b-llama-distill": ("70b", ("70b",)),
    "671b-0528": ("671b", ("671b",)),
    "671b": ("671b", ()),
}
_FILE_TYPES = {"q4_K_M": "Q4_K_M", "q8_0": "Q8_0", "fp16": "F16"}

# The bars of DeepSeek's marks are U+FF5C.
TEMPLATE = """\
{{- if .System }}{{ .System }}{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1}}
{{- if eq .Role "user" }}<|User|>{{ .Content }}
{{- else if eq .Role "assistant" }}<|Assistant|>
  {{- if and $.IsThinkSet (and $last .Thinking) -}}
<think>
{{ .Thinking }}
</think>
{{- end }}{{ .Content }}{{- if not $last }}<|end▁of▁sentence|>{{- end }}
{{- end }}
{{- if and $last (ne .Role "assistant") }}<|Assistant|>
{{- if and $.IsThinkSet (not $.Think) -}}
<think>

</think>

{{ end }}
{{- end -}}
{{- end -}}""".replace("|", "\uff5c")
PARAMS = {"stop": [tiny.START, tiny.END, tiny.USER, tiny.ASSISTANT], "temperature": 0.6}
LICENSE = "MIT License. A model without knowledge, made for the lab.\n"


class PublishError(RuntimeError):
    """The registry did not take the models; the message says which request and why."""


@dataclass(frozen=True)
class Tag:
    """What one tag of the registry stands for. `shape` is the key of lab.engine.shapes."""

    name: str
    shape: str
    quantisation: str

    def config(self, layers: list[str]) -> bytes:
        """The config blob, from which Ollama tells parameters and quantisation."""
        known = SHAPES.get(self.shape)
        family = known.arch if known else "deepseek2"
        return _json(
            {
                "model_format": "gguf",
                "model_family": family,
                "model_families": [family],
                "model_type": known.parameters if known else "671.0B",
                "file_type": _FILE_TYPES[self.quantisation],
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": layers},
            }
        )


def tags() -> list[tuple[Tag, tuple[str, ...]]]:
    """Every distinct model with the names it has, the long one first."""
    found = []
    for family, (shape, short) in _FAMILIES.items():
        for quantisation in QUANTISATIONS:
            tag = Tag(f"{family}-{quantisation}", shape, quantisation)
            found.append((tag, (tag.name, *(short if quantisation == "q4_K_M" else ()))))
    return found


def write_models(folder: Path) -> None:
    """Write blobs and manifests of all tags below `folder`; same bytes every time."""
    (folder / "manifests").mkdir(parents=True)
    for tag, names in tags():
        manifest = add_model(folder, tag)
        for name in names:
            (folder / "manifests" / name).write_bytes(manifest)


def add_model(
    folder: Path, tag: Tag, *, answer: str = tiny.ANSWER, payload_bytes: int = 0
) -> bytes:
    """Write the blobs of one model below `folder`; returns its manifest."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    scratch = blobs / "model.new"
    name = f"DeepSeek R1 {tag.name} (tiny)"
    shape = file_name(tag.shape, tag.quantisation)
    tiny.write(scratch, name, shape, answer=answer, payload_bytes=payload_bytes)
    layers = {
        "model": scratch.read_bytes(),
        "template": TEMPLATE.encode(),
        "license": LICENSE.encode(),
        "params": _json(PARAMS),
    }
    scratch.unlink()
    described = [
        _blob(blobs, f"application/vnd.ollama.image.{kind}", data) for kind, data in layers.items()
    ]
    config = _blob(blobs, CONFIG_TYPE, tag.config([str(layer["digest"]) for layer in described]))
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}
    return _json({**manifest, "config": config, "layers": described})


def publish(models: Path, registry: str) -> dict[str, str]:
    """Upload what the registry at `registry` (base URL) lacks of the models.

    Returns {"deepseek-r1:14b": "sha256:<manifest digest>", ...}. Raises PublishError.
    """
    base = f"{registry.rstrip('/')}/v2/{REPOSITORY}"
    digests = {}
    for path in sorted((models / "manifests").iterdir()):
        manifest = path.read_bytes()
        digest = _digest(manifest)
        if not _exists(f"{base}/manifests/{digest}"):
            content = json.loads(manifest)
            for blob in (*content["layers"], content["config"]):
                _upload(base, models / "blobs", blob["digest"])
        if _exists(f"{base}/manifests/{path.name}") != digest:
            _request("PUT", f"{base}/manifests/{path.name}", manifest, MANIFEST_TYPE)
        digests[f"{MODEL}:{path.name}"] = digest
    return digests


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(blobs: Path, media_type: str, data: bytes) -> dict[str, str | int]:
    digest = _digest(data)
    (blobs / digest.replace(":", "-")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _request(
    method: str, url: str, data: bytes | None = None, content_type: str = "application/octet-stream"
) -> dict[str, str]:
    """Headers of the answer, names in lower case."""
    headers = {"Content-Type": content_type, "Accept": MANIFEST_TYPE}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        text = error.read()[:200].decode(errors="replace")
        raise PublishError(f"{method} {url}: HTTP {error.code} {text}".rstrip()) from error
    except OSError as error:
        raise PublishError(f"{method} {url}: {error}") from error


def _exists(url: str) -> str | None:
    """Digest of what the registry has under `url`; None when it has nothing."""
    try:
        return _request("HEAD", url).get("docker-content-digest", "")
    except PublishError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 404:
            return None
        raise


def _upload(base: str, blobs: Path, digest: str) -> None:
    if _exists(f"{base}/blobs/{digest}") is not None:
        return
    place = urljoin(base, _request("POST", f"{base}/blobs/uploads/", b"")["location"])
    mark = "&" if "?" in place else "?"
    data = (blobs / digest.replace(":", "-")).read_bytes()
    _request("PUT", f"{place}{mark}digest={digest}", data)
