"""Small pieces of POSIX shell, quoted by construction."""

import shlex
from collections.abc import Mapping


def write_file(path: str, *, mode: str, owner: str = "root:root") -> str:
    """A script that puts its standard input at `path` by one rename.

    The content goes by standard input: it shows in no process list, log or temporary file that
    others can read.
    """
    user, group = owner.split(":")
    target, fresh = shlex.quote(path), shlex.quote(f"{path}.new")
    folder = shlex.quote(path.rsplit("/", 1)[0])
    return (
        f"set -e; install -d -m 755 {folder}; umask 077; cat >{fresh};"
        f" chown {user}:{group} {fresh}; chmod {mode} {fresh}; mv -f {fresh} {target}"
    )


def assign(values: Mapping[str, str]) -> str:
    """Shell assignments, quoted: the safe way to hand values to a script."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
