"""Small pieces of POSIX shell, quoted by construction."""

import hashlib
import shlex
from collections.abc import Mapping


def receive(path: str, content: str) -> str:
    """A script that takes `content` from standard input into PATH.new, if it comes whole.

    A laptop that dies in mid-run looks like the end of the content, so its checksum decides. By
    standard input it shows in no process list, log or file that others can read.
    """
    fresh = shlex.quote(f"{path}.new")
    # pyinfra ends what it sends with a line break.
    sent = content if content.endswith("\n") else f"{content}\n"
    digest = hashlib.sha256(sent.encode()).hexdigest()
    return (
        f"umask 077; cat >{fresh} || exit 1\n"
        f'[ "$(sha256sum <{fresh})" = "{digest}  -" ] || {{ rm -f {fresh};'
        ' echo "what was sent did not come whole" >&2; exit 1; }\n'
    )


def write_file(path: str, content: str, *, mode: str, owner: str = "root:root") -> str:
    """A script that puts `content`, its standard input, at `path` whole, by one rename."""
    target, fresh = shlex.quote(path), shlex.quote(f"{path}.new")
    folder = shlex.quote(path.rsplit("/", 1)[0])
    return (
        f"[ -d {folder} ] || install -d -m 755 {folder} || exit 1\n"
        + receive(path, content)
        + f"chown {owner} {fresh} && chmod {mode} {fresh} && mv -f {fresh} {target}\n"
    )


def assign(values: Mapping[str, str]) -> str:
    """Shell assignments, quoted: the safe way to hand values to a script."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def export(values: Mapping[str, str]) -> str:
    """As `assign`, for the environment of the programs that the script runs."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
