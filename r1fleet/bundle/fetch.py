"""Downloads to this machine, for a bundle: they go on where they stopped, and are checked."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from r1fleet.lock_find import token

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
SHA512_DIGITS = 128
PAUSES_S = (1, 2, 4, 8, 15)  # between tries that bring nothing


class PackError(ValueError):
    """Something cannot be packed; the message says what, why and what to do, in one line."""


def sha256(path: Path) -> str:
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def text(url: str) -> str:
    """A small file. Raises PackError."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return str(answer.read(1 << 20).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        raise PackError(
            f"{url}: {error}; check the address, or this machine's https_proxy"
        ) from None


def sum_of(url: str, file: str, setting: str) -> str:
    """The digest of a file by a release's list of sums. Raises PackError, which names a setting."""
    for line in text(url).splitlines():
        digest, _, name = line.partition(" ")
        if name.strip().lstrip("*").removeprefix("./") == file:
            return digest
    raise PackError(f"{url} has no line for {file}; set {setting}")


def whole(url: str, target: Path, digest: str | None, login: str | None = None) -> None:
    """Bring a file, unless it is here by its digest. Raises PackError.

    + digest: its SHA-256 or SHA-512; None takes what comes
    + login: the Authorization for this server, and for none that it redirects to
    """
    algorithm = "sha512" if digest and len(digest) == SHA512_DIGITS else "sha256"
    if digest and target.exists() and _digest(target, algorithm) == digest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    if digest is None:
        part.unlink(missing_ok=True)
    _bring(url, part, login)
    found = _digest(part, algorithm)
    if digest and found != digest:
        part.unlink()
        raise PackError(f"{url}: its checksum is {found}, expected {digest}; run again")
    part.replace(target)


def _bring(url: str, part: Path, login: str | None) -> None:
    pauses = list(PAUSES_S)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _try(url, part, before, login)
        except urllib.error.HTTPError as error:
            given = login and error.code == 401 and token(url, error, login)
            if given and login != f"Bearer {given}":
                login = f"Bearer {given}"
                continue
            if error.code == 416:  # what is here is longer than what is there
                part.unlink()
            elif error.code < 500:
                raise PackError(f"{url} answered {error.code}; check its address") from None
            why: Exception = error
        except (OSError, http.client.HTTPException) as error:
            why = error
        if part.exists() and part.stat().st_size > before:
            pauses = list(PAUSES_S)
        if not pauses:
            raise PackError(f"{url}: {why}; run again, it goes on where it stopped") from None
        time.sleep(pauses.pop(0))


def _try(url: str, part: Path, start: int, login: str | None) -> None:
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    if login:
        request.add_unredirected_header("Authorization", login)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        length = answer.headers.get("Content-Length")
        goes_on = answer.status == 206
        with part.open("ab" if goes_on else "wb") as file:
            came = 0
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                came += len(chunk)
    if length is not None and came < int(length):
        raise OSError(f"only {came} of {length} bytes came")
