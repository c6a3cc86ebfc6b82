"""Models of any size beside the registry's own: files that the public registry finds first."""

import hashlib
import shutil

from lab.engine.registry import Tag, add_model
from lab.paths import overlay_dir
from lab.shell import Refusal

QUANTISATION = "q4_K_M"


def add(name: str, payload_mb: int) -> dict[str, str | int]:
    """Put a model that answers under a name such as "deepseek-r1:1.5b", with so many MB to fetch.

    Returns its manifest digest and the bytes of its blobs. Raises Refusal for a name without tag.
    """
    model, _, tag = name.partition(":")
    if not tag:
        raise Refusal(f"{name!r} names no tag; give it as deepseek-r1:1.5b")
    place = overlay_dir() / "v2" / "library" / model
    scratch = overlay_dir() / "new"
    shutil.rmtree(scratch, ignore_errors=True)
    manifest = add_model(scratch, Tag(name, "1.5b", QUANTISATION), payload_bytes=payload_mb * 10**6)
    for folder in ("blobs", "manifests"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    size_bytes = 0
    for blob in (scratch / "blobs").iterdir():
        size_bytes += blob.stat().st_size
        blob.rename(place / "blobs" / blob.name.replace("-", ":"))
    (place / "manifests" / tag).write_bytes(manifest)
    shutil.rmtree(scratch)
    return {"digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}", "size_bytes": size_bytes}


def clear() -> None:
    """Take all of them away."""
    shutil.rmtree(overlay_dir(), ignore_errors=True)
