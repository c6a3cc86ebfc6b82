"""The key that signs the lab's apt repositories: made once, kept in the cache.

gpg works in a throw-away home directory (a short path, as its sockets need one), and the agent it
starts is ended before the directory goes.
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import paths
from lab.shell import run

_USER = "r1fleet lab, simulated packages <lab@invalid>"


def public_key() -> bytes:
    """The public key in the binary form that apt's Signed-By reads."""
    return (_key_dir() / "public.gpg").read_bytes()


def sign_release(folder: Path) -> None:
    """Write InRelease and Release.gpg beside `folder`/Release."""
    with _gpg_home() as home:
        _gpg(home, "--import", str(_key_dir() / "secret.gpg"))
        release = str(folder / "Release")
        _gpg(home, "--clearsign", "--output", str(folder / "InRelease"), release)
        _gpg(home, "--armor", "--detach-sign", "--output", str(folder / "Release.gpg"), release)


def _key_dir() -> Path:
    folder = paths.cache_dir() / "signing-key"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Base images are made side by side, and each asks for the key.
    with (folder.parent / "signing-key.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make_key(folder)
    return folder


def _make_key(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, _gpg_home() as home:
        made = Path(scratch) / "key"
        made.mkdir(mode=0o700)
        _gpg(home, "--passphrase", "", "--quick-gen-key", _USER, "rsa3072", "sign", "never")
        _gpg(home, "--output", str(made / "public.gpg"), "--export")
        _gpg(home, "--output", str(made / "secret.gpg"), "--export-secret-keys")
        made.rename(folder)


@contextmanager
def _gpg_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="r1lab-gpg-", dir="/tmp") as folder:
        home = Path(folder)
        try:
            yield home
        finally:
            run("gpgconf", "--homedir", folder, "--kill", "all")


def _gpg(home: Path, *args: str) -> None:
    options = ("--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback")
    run("gpg", "--homedir", str(home), *options, "--digest-algo", "SHA512", *args)
