"""Models that are made of a GGUF file, on the laptop, on the host or at a URL."""

from pathlib import Path
from typing import Any

from paramiko import SSHException
from pyinfra.api import Host

from r1fleet.bundle import contents
from r1fleet.bundle.contents import blob
from r1fleet.bundle.fetch import sha256
from r1fleet.model import job, made, unit
from r1fleet.model.manifest import ModelWanted, human
from r1fleet.remote import HostFailure, run, say
from r1fleet.shell import assign

CHUNK_BYTES = 1 << 20
TELL_EVERY_BYTES = 1 << 30
TELL_FROM_BYTES = 1 << 20  # a bundle has many small ones
AGAIN = "run again, it goes on where it stopped"

# As the service user: root would follow links that it could plant. Whoever logs in may add files,
# and what they hold is checked before it is used.
_MAKE_ROOM = """
setpriv --reuid=ollama --regid=ollama --clear-groups \
  sh -c 'mkdir -p "$1" && chmod 1733 "$1"' sh "$R1_UPLOADS" || exit 1
stat -c 'size %s' "$R1_UPLOADS/$R1_NAME" 2>/dev/null || echo size 0
"""


def manifest(host: Host, want: ModelWanted) -> bytes:
    """The manifest of the model that is made of the file, once its size is known."""
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
    return made.manifest(source, size)


def packed_manifest(want: ModelWanted) -> bytes:
    """The manifest of a model as its bundle has it."""
    raw = contents.read(str(want.bundle)).manifest(want.name)
    if raw is None:
        raise HostFailure("the bundle", f"it lacks the model {want.name}", contents.AGAIN)
    return raw


def upload(host: Host, stage: str, want: ModelWanted) -> None:
    """Send the file, if it lies on the laptop, from where a former run stopped."""
    source = want.source
    assert source
    if source.kind != "file":
        return
    _upload(host, stage, want, Path(source.place).expanduser(), source.sha256)


def check_blob(want: ModelWanted, hex_digest: str) -> None:
    """Fails the host where its bundle has a damaged blob."""
    place = blob(hex_digest)
    if sha256(contents.read(str(want.bundle)).path(place)) != hex_digest:
        raise HostFailure("the bundle", f"{place} is damaged", contents.AGAIN)


def upload_blob(host: Host, stage: str, want: ModelWanted, hex_digest: str) -> None:
    """Send a blob of the bundle, from where a former run stopped."""
    _upload(host, stage, want, contents.read(str(want.bundle)).path(blob(hex_digest)), hex_digest)


def _upload(host: Host, stage: str, want: ModelWanted, path: Path, name: str) -> None:
    folder = f"{want.models_dir}/{job.UPLOADS}"
    room = run(host, assign({"R1_UPLOADS": folder, "R1_NAME": name}) + _MAKE_ROOM)
    if not room.ok:
        raise HostFailure(f"the upload of {want.name}", room.reason, "check the model directory")
    target = f"{folder}/{name}"
    # As long already, or longer: whole, or of something else; its checksum will tell.
    send_file(host, stage, want.name, path, target, unit.read(room).size_bytes)
    # -h: a link that was put in its place is not followed.
    run(host, assign({"R1_FILE": target}) + 'chown -h ollama:ollama "$R1_FILE"')


def send_file(host: Host, stage: str, what: str, path: Path, target: str, there: int) -> None:
    """Send a file of this machine as SFTP does, unless the host has that many bytes already."""
    client: Any = getattr(host.connector, "client", None)
    if client is None:
        why, fix = "this host is not reached by SSH", "give what it needs in another way"
        raise HostFailure(f"the upload of {what}", why, fix)
    try:
        if there < path.stat().st_size:
            _send(host, stage, client, path, target, there)
    except (OSError, EOFError, SSHException) as error:
        why = str(error) or type(error).__name__
        raise HostFailure(f"the upload of {what}", why, AGAIN) from error


def _send(host: Host, stage: str, client: Any, path: Path, target: str, start: int) -> None:
    size = path.stat().st_size
    if size >= TELL_FROM_BYTES:
        name = path.name if len(path.name) < 64 else path.name[:12]  # a blob's is its digest
        say(host, stage, f"sends {name}, {human(size - start)}")
    with client.open_sftp() as sftp, path.open("rb") as file, sftp.open(target, "ab") as there:
        file.seek(start)
        there.set_pipelined(True)
        told = start
        while chunk := file.read(CHUNK_BYTES):
            there.write(chunk)
            if file.tell() - told >= TELL_EVERY_BYTES:
                told = file.tell()
                say(host, stage, f"{path.name}: {human(told)} of {human(size)} sent")


def _no_file(want: ModelWanted, why: str) -> HostFailure:
    assert want.source
    what = f"the file of {want.name}"
    return HostFailure(what, f"{want.source.place}: {why}", "check model_sources")
