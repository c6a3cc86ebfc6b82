"""The engine's archive in the layout of the official release, same bytes for the same inputs."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

NAME = "ollama-linux-amd64.tar.zst"
CHECKSUMS = "sha256sum.txt"


def write(folder: Path, files: dict[str, Path]) -> str:
    """Write the archive of `files` (name in the archive: source) and its checksum file.

    Returns the SHA-256 of the archive. Raises CalledProcessError when zstd fails.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted({*files, *_folders(files)}):
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if name not in files:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
                continue
            data = files[name].read_bytes()
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / NAME
    argv = ["zstd", "--quiet", "--force", "-6", "-o", str(target)]
    subprocess.run(argv, input=content.getvalue(), check=True)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    (folder / CHECKSUMS).write_text(f"{digest}  ./{NAME}\n")
    return digest


def _folders(files: dict[str, Path]) -> set[str]:
    parents = {str(parent) for name in files for parent in Path(name).parents}
    return parents - {"."}
