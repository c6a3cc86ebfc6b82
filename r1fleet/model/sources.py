"""Models that are made of a GGUF file, on the laptop, on the host or at a URL."""

from pathlib import Path
from typing import Any

from paramiko import SSHException
from pyinfra.api import Host

from r1fleet.model import unit
from r1fleet.model.manifest import Blob, ModelManifest, ModelWanted, human
from r1fleet.remote import HostFailure, run, say
from r1fleet.shell import assign

CHUNK_BYTES = 1 << 20
TELL_EVERY_BYTES = 1 << 30
AGAIN = "run again, it goes on where it stopped"

# As the service user: root would follow links that it could plant. Whoever logs in may add files,
# and what they hold is checked before it is used.
_MAKE_ROOM = """
setpriv --reuid=ollama --regid=ollama --clear-groups \
  sh -c 'mkdir -p "$1" && chmod 1733 "$1"' sh "$R1_UPLOADS" || exit 1
stat -c 'size %s' "$R1_UPLOADS/$R1_NAME" 2>/dev/null || echo size 0
"""


def coming(host: Host, want: ModelWanted) -> ModelManifest:
    """What is to come: the file alone; its model's manifest is made on the host."""
    source = want.source
    assert source
    if source.kind == "file":
        try:
            size = Path(source.place).expanduser().stat().st_size
        except OSError as error:
            raise _no_file(want, error.strerror or str(error)) from error
    else:
        found = unit.measure(host, want)
        size = found.size_bytes
        if not size:
            raise _no_file(want, found.error)
    return ModelManifest(source.digest, (Blob(source.digest, size),))


def upload(host: Host, stage: str, want: ModelWanted) -> None:
    """Send the file from the laptop, from where a former run stopped."""
    source = want.source
    assert source
    folder = f"{want.models_dir}/{unit.UPLOADS}"
    made = run(host, assign({"R1_UPLOADS": folder, "R1_NAME": source.sha256}) + _MAKE_ROOM)
    if not made.ok:
        raise HostFailure(f"the upload of {want.name}", made.reason, "check the model directory")
    there = unit.read(made).size_bytes
    client: Any = getattr(host.connector, "client", None)
    if client is None:
        what = f"the upload of {want.name}"
        raise HostFailure(what, "this host is not reached by SSH", "give it as a path on the host")
    path = Path(source.place).expanduser()
    try:
        size = path.stat().st_size
        if there >= size:  # whole, or of something else: the checksum will tell
            return
        say(host, stage, f"sends {path.name}, {human(size - there)}")
        with client.open_sftp() as sftp, path.open("rb") as file:
            file.seek(there)
            with sftp.open(f"{folder}/{source.sha256}", "ab") as target:
                target.set_pipelined(True)
                told = there
                while chunk := file.read(CHUNK_BYTES):
                    target.write(chunk)
                    if file.tell() - told >= TELL_EVERY_BYTES:
                        told = file.tell()
                        say(host, stage, f"{path.name}: {human(told)} of {human(size)} sent")
    except (OSError, EOFError, SSHException) as error:
        why = str(error) or type(error).__name__
        raise HostFailure(f"the upload of {want.name}", why, AGAIN) from error


def _no_file(want: ModelWanted, why: str) -> HostFailure:
    assert want.source
    what = f"the file of {want.name}"
    return HostFailure(what, f"{want.source.place}: {why}", "check model_sources")
