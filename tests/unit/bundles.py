"""Small bundles for tests."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.unit.registry import BIG, SMALL, manifest, sha256

NAME = "deepseek-r1:14b"
ENGINE = "engine/v0.32.15/ollama-linux-amd64.tar.zst"
SUMS = "engine/v0.32.15/sha256sum.txt"
INDEX = "packages/debian-12-x86_64/Packages"
TOOLS = ("aria2", "curl", "tar", "zstd")
DRIVER = (
    *("nvidia-driver-pinning-580", "linux-headers-6.1.0-44-amd64", "nvidia-driver-cuda"),
    "nvidia-kernel-open-dkms",
)


def deb(name: str) -> str:
    return f"packages/debian-12-x86_64/{name}_1.0_amd64.deb"


def stanza(name: str) -> str:
    file = deb(name).rpartition("/")[2]
    digest = sha256(name.encode())
    return (
        f"Package: {name}\nVersion: 1:1.0\nArchitecture: amd64\nDescription: {name}\n more\n"
        f"Filename: {file}\nSize: {len(name)}\nSHA256: {digest}\n\n"
    )


def package_set(*names: str, release: str = "debian 12", needs: tuple[str, ...] = ()) -> Any:
    files = [deb(name) for name in (*names, *needs)]
    return {
        "release": release,
        "arch": "x86_64",
        "names": names,
        "index": INDEX,
        "files": files,
    }


def make(folder: Path, **changes: Any) -> Path:
    """A whole bundle: an engine, a model of two blobs, tools and a driver for Debian 12."""
    raw = manifest()
    everything = (*TOOLS, *DRIVER, "libaria2-0")
    content = {
        ENGINE: b"engine",
        SUMS: b"sums",
        "models/library/deepseek-r1/14b": raw,
        f"blobs/{sha256(BIG)}": BIG,
        f"blobs/{sha256(SMALL)}": SMALL,
        INDEX: "".join(map(stanza, everything)).encode(),
        **{deb(name): name.encode() for name in everything},
    }
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    whole = {
        "schema": 1,
        "at": "2026-11-24T21:00:00+00:00",
        "engines": [{"version": "0.32.15", "arch": "x86_64", "archive": ENGINE, "sums": SUMS}],
        "models": {
            NAME: {
                "digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
                "manifest": "models/library/deepseek-r1/14b",
                "blobs": [sha256(BIG), sha256(SMALL)],
            }
        },
        "packages": [
            package_set(*TOOLS, needs=("libaria2-0",)),
            package_set(*TOOLS, *DRIVER, needs=("libaria2-0",)),
        ],
        "files": {
            name: {"size_bytes": len(data), "sha256": sha256(data), "source": "test"}
            for name, data in content.items()
        },
        **changes,
    }
    (folder / "bundle.json").write_text(json.dumps(whole))
    return folder
