"""Finds or builds everything the lab's engine consists of, below the cache."""

import hashlib
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lab.engine import archive, binaries, registry, shapes
from lab.engine.binaries import EngineError, Progress
from lab.locking import locked
from lab.paths import SOURCE, cache_dir

RELEASE = f"https://github.com/ollama/ollama/releases/download/v{binaries.OLLAMA_VERSION}"
CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class EngineDir:
    """A finished engine: what the artifact server, the registry and the hosts are given."""

    root: Path
    archive: Path
    archive_sha256: str
    version: str
    shapes: Path
    simgpu: Path
    models: Path


def ensure(progress: Progress) -> EngineDir:
    """Return the engine, built if it is not in the cache (about ten minutes on two cores).

    What an interrupted build had done is kept, and nothing half-done is ever returned.
    Raises EngineError.
    """
    cache = cache_dir() / "engine"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / _key()
    with locked(cache / "lock", "the engine", progress):
        if not root.is_dir():
            _assemble(cache, root, progress)
    packed = root / "archive" / archive.NAME
    digest = (root / "archive" / archive.CHECKSUMS).read_text().split()[0]
    version = binaries.OLLAMA_VERSION
    folders = (root / "shapes", root / "simgpu", root / "models")
    return EngineDir(root, packed, digest, version, *folders)


def _key() -> str:
    """Changes with every version, flag and source that goes into the engine."""
    folder = SOURCE / "engine"
    kinds = {".py", ".go", ".mod", ".c"}
    sources = sorted(path for path in folder.rglob("*") if path.suffix in kinds)
    content = [data for path in sources for data in (path.name, path.read_bytes())]
    return binaries.digest(*content)


def _assemble(cache: Path, root: Path, progress: Progress) -> None:
    llama = binaries.llama_cpp(cache, progress)
    ollama = official(cache, progress) or binaries.ollama(cache, progress)
    simgpu = binaries.simgpu(cache, progress)
    progress("engine: archive, models and shapes")
    unfinished = root.with_name(f"{root.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    files = {
        "bin/ollama": ollama / "ollama",
        "lib/ollama/llama-server": simgpu / "llama-server",
        # The real one keeps its name: that is what a process list shows.
        "lib/ollama/cpu/llama-server": llama / "llama-server",
    }
    archive.write(unfinished / "archive", files)
    shapes.write_all(unfinished / "shapes")
    registry.write_models(unfinished / "models")
    beneath = unfinished / "simgpu"
    beneath.mkdir()
    for binary in (*(llama / name for name in binaries.LLAMA_BINARIES), simgpu / "physpages.so"):
        shutil.copy2(binary, beneath)
    for path in (unfinished, *unfinished.rglob("*")):
        # The hosts' users read this, whatever the umask here.
        path.chmod(0o755 if path.is_dir() or path.parent.name == "simgpu" else 0o644)
    unfinished.rename(root)
    shutil.rmtree(cache / "build")


def official(cache: Path, progress: Progress) -> Path | None:
    """Folder with `ollama` from the official archive; None when it cannot be downloaded.

    Raises EngineError when what was downloaded is not what the release's checksums say.
    """

    def download(work: Path, result: Path) -> None:
        target = work / archive.NAME
        with urllib.request.urlopen(
            f"{RELEASE}/{archive.CHECKSUMS}", timeout=CONNECT_TIMEOUT_S
        ) as response:
            lines = response.read().decode().splitlines()
        wanted = next(line.split()[0] for line in lines if line.endswith(f"/{archive.NAME}"))
        digest, done = hashlib.sha256(), 0
        with (
            urllib.request.urlopen(
                f"{RELEASE}/{archive.NAME}", timeout=CONNECT_TIMEOUT_S
            ) as response,
            target.open("wb") as file,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                done += len(chunk)
                progress(f"Ollama archive: {done / 1e6:.0f} MB")
        if digest.hexdigest() != wanted:
            target.unlink()
            raise EngineError(f"{RELEASE}/{archive.NAME}: checksum differs: download it again")
        argv = ["tar", "--zstd", "-xf", str(target), "-C", str(work), "bin/ollama"]
        subprocess.run(argv, check=True)
        shutil.copy2(work / "bin" / "ollama", result)

    try:
        return binaries.part(cache, "official", binaries.OLLAMA_VERSION, download)
    except (OSError, StopIteration, subprocess.CalledProcessError) as error:
        progress(f"Ollama archive cannot be downloaded ({error}): building from source")
        return None
