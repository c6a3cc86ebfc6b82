"""Caddy for the gateways: the official release's archive, or one like it built from the Go module.

Its cache is its own, beside the engine's: a new Caddy rebuilds no engine.
"""

import gzip
import hashlib
import io
import shutil
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lab.engine import binaries
from lab.engine.binaries import EngineError, Progress
from lab.locking import locked
from lab.paths import cache_dir

VERSION = "2.11.9"
RELEASE = f"https://github.com/caddyserver/caddy/releases/download/v{VERSION}"
ARCHIVE = f"caddy_{VERSION}_linux_amd64.tar.gz"
CHECKSUMS = f"caddy_{VERSION}_checksums.txt"
GO_FLAGS = (*binaries.GO_FLAGS, "-ldflags", "-s -w")
CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Caddy:
    """A finished archive in the layout of the official release."""

    archive: Path
    sha512: str
    version: str


def ensure(progress: Progress) -> Caddy:
    """Return the archive, made if it is not in the cache (some minutes on two cores).

    Raises EngineError when the build fails, or when a download is not what its checksum says.
    """
    cache = cache_dir() / "caddy"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock", "Caddy", progress):
        folder = _official(cache, progress) or _built(cache, progress)
        shutil.rmtree(cache / "build", ignore_errors=True)
    archive = folder / ARCHIVE
    digest = hashlib.sha512(archive.read_bytes()).hexdigest()
    return Caddy(archive, digest, VERSION)


def publish(caddy: Caddy, www: Path) -> None:
    """Lay the archive and its checksums below a web root as the release page does."""
    folder = www / "caddy" / f"v{caddy.version}"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / ARCHIVE
    if not target.exists() or target.read_bytes() != caddy.archive.read_bytes():
        unfinished = target.with_suffix(".new")
        shutil.copyfile(caddy.archive, unfinished)
        unfinished.rename(target)
    (folder / CHECKSUMS).write_text(f"{caddy.sha512}  {ARCHIVE}\n")


def _built(cache: Path, progress: Progress) -> Path:
    """Folder with the archive, built from the Go module."""

    def build(work: Path, result: Path) -> None:
        module = f"github.com/caddyserver/caddy/v2/cmd/caddy@v{VERSION}"
        argv = [binaries.go_tool(cache, progress), "install", "-v", *GO_FLAGS, module]
        binaries.run("Caddy", argv, progress, cwd=work, env=binaries.go_env(work, cgo=False))
        (result / ARCHIVE).write_bytes(pack((work / "bin" / "caddy").read_bytes()))

    return binaries.part(cache, "built", binaries.digest(VERSION, *GO_FLAGS), build)


def _official(cache: Path, progress: Progress) -> Path | None:
    """Folder with the official archive; None when it cannot be downloaded.

    What was built stays in use: hosts pin its digest.
    """
    key = binaries.digest(VERSION, *GO_FLAGS)
    if (cache / "parts" / f"built-{key}").is_dir():
        return None

    def download(work: Path, result: Path) -> None:
        lines = _fetch(CHECKSUMS, progress).decode().splitlines()
        words = [line.split() for line in lines]
        wanted = next(digest for digest, name in words if name == ARCHIVE)
        data = _fetch(ARCHIVE, progress)
        if hashlib.sha512(data).hexdigest() != wanted:
            raise EngineError(f"{RELEASE}/{ARCHIVE}: checksum differs: run the same again")
        (result / ARCHIVE).write_bytes(data)

    try:
        return binaries.part(cache, "official", VERSION, download)
    except (OSError, StopIteration) as error:
        progress(f"Caddy's archive cannot be downloaded ({error}): building it from source")
        return None


def _fetch(name: str, progress: Progress) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(f"{RELEASE}/{name}", timeout=CONNECT_TIMEOUT_S) as response:
        while chunk := response.read(_CHUNK_BYTES):
            data += chunk
            progress(f"{name}: {len(data) / 1e6:.0f} MB")
    return bytes(data)


def pack(binary: bytes) -> bytes:
    """An archive with Caddy as `caddy`; the same bytes for the same binary."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo("caddy")
        entry.mode, entry.size = 0o755, len(binary)
        archive.addfile(entry, io.BytesIO(binary))
    return gzip.compress(content.getvalue(), compresslevel=6, mtime=0)
