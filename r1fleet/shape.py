"""The shape of any model of a registry, from the head of its file: a few MiB by HTTP range."""

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from r1fleet.catalog import OtherModel, TensorBytes
from r1fleet.gguf_head import Head, HeadError, ShortHead, read
from r1fleet.model.manifest import ManifestError, ModelWanted, parse

MODEL_LAYER = "application/vnd.ollama.image.model"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
STEP_BYTES = 1 << 20
MOST_BYTES = 64 << 20  # no vocabulary is larger
TIMEOUT_S = 60.0


class ShapeError(ValueError):
    """The shape cannot be read; the message says why, in one line."""


def other_model(name: str, registry_url: str) -> OtherModel:
    """The catalogue's row of a model such as "llama3.1:8b". Raises ShapeError."""
    try:
        want = ModelWanted(name, registry_url, "/")
        raw = _get(f"{want.repository_url}/manifests/{want.tag}", {"Accept": MANIFEST}, STEP_BYTES)
        manifest = parse(raw)
        head = _head(f"{want.repository_url}/blobs/{_model_layer(raw)}")
        return OtherModel(
            name=name,
            size_bytes=manifest.size_bytes,
            shape=head.shape,
            tensors=tensor_bytes(head),
            digest=manifest.digest.removeprefix("sha256:"),
        )
    except (ManifestError, HeadError, ShapeError) as error:
        raise ShapeError(f"{name}: {error}") from error
    except ValueError as error:
        raise ShapeError(str(error)) from error


def tensor_bytes(head: Head) -> TensorBytes:
    """Tensors by where llama.cpp puts them. Without an output of its own a model's output is a
    copy of the embedding."""
    layers = [0] * head.shape.layers
    output = embedding = 0
    has_output = False
    for tensor in head.tensors:
        place, _, rest = tensor.name.partition(".")
        number = rest.partition(".")[0]
        if place == "blk" and number.isdigit() and int(number) < len(layers):
            layers[int(number)] += tensor.size_bytes
        elif tensor.name == "token_embd.weight":
            embedding = tensor.size_bytes
        else:
            has_output = has_output or tensor.name == "output.weight"
            output += tensor.size_bytes
    if not all(layers) or not embedding:
        raise HeadError("its tensors are not those of a language model")
    return TensorBytes(
        layers=tuple(layers), output=output + (0 if has_output else embedding), embedding=embedding
    )


def _model_layer(raw: bytes) -> str:
    layers: list[dict[str, Any]] = json.loads(raw)["layers"]
    for layer in layers:
        if layer.get("mediaType") == MODEL_LAYER:
            return str(layer["digest"])
    raise ShapeError("it has no model file")


def _head(url: str) -> Head:
    """Read on, twice as far each time, until the head is whole."""
    data, step = b"", STEP_BYTES
    while True:
        span = {"Range": f"bytes={len(data)}-{len(data) + step - 1}"}
        more = _get(url, span, step)
        data, step = data + more, len(data) + len(more)
        try:
            return read(data)
        except ShortHead:
            if not more or len(data) >= MOST_BYTES:
                raise


def _get(url: str, headers: dict[str, str], most_bytes: int) -> bytes:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if "Range" in headers and response.status != 206 and not _from_start(headers):
                raise ShapeError("the registry serves no ranges")
            body: bytes = response.read(most_bytes)
            return body
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the file ends here
            return b""
        raise ShapeError(f"{url}: HTTP {error.code}") from error
    except (OSError, HTTPException) as error:
        raise ShapeError(f"{url}: {error}") from error


def _from_start(headers: dict[str, str]) -> bool:
    return headers["Range"].startswith("bytes=0-")
