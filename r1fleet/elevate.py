"""Every command of ours goes to its host here: as root, whatever the login shell is and says.

The login shell gets one plain command that sh, bash, fish and busybox read alike, and what its
start-up files print is left out of the answer. Where sudo wants a password it is the first line of
standard input: it stands in no process list, log or file.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyinfra.api import Host
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments

from r1fleet import sudo_password
from r1fleet.words import plain

BEGUN = "@@r1fleet"  # the script's own first line, on both of its streams
# Other ways of pyinfra to become somebody: they are left to it.
_OTHERS = (
    *("_env", "_chdir", "_su_user", "_doas", "_dzdo", "_use_sudo_login", "_preserve_sudo_env"),
)
DOCS = "see docs/hosts.md"
# What sudo says in English (LC_ALL=C), both Todd Miller's and sudo-rs: what is wrong, what to do.
_WRONG = (
    (
        r"incorrect (password|authentication) attempt|Authentication failed",
        "sudo refused the password",
        "check sudo_password",
    ),
    (
        r"password is required|authentication is required|no password was provided",
        "sudo wants a password",
        f'set sudo_password = "ask" in group_data, or give NOPASSWD in sudoers; {DOCS}',
    ),
    (
        r"must have a tty|no tty present",
        "sudo wants a terminal (requiretty)",
        "put `Defaults:USER !requiretty` for this user into sudoers",
    ),
    (
        r"not in the sudoers|not allowed to (execute|run)|may not run sudo",
        "sudo allows this user no such command",
        "put `USER ALL=(ALL) ALL` for this user into sudoers",
    ),
    (
        r"env: .*sudo|sudo: (command )?not found",
        "there is no sudo",
        "install sudo there, or enter as root with a key",
    ),
)


class NotBegun(Exception):
    """A host ran nothing of a command: why, and what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(f"{why}; {fix}")
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Said:
    """What a script said and whether it ended with 0."""

    ok: bool
    stdout: str
    stderr: str


def run(host: Host, script: str, *, stdin: str | None = None, timeout_s: float = 120) -> Said:
    """Run a POSIX shell script with the elevation of the operation, else of the host's data.

    Raises NotBegun, TimeoutError after `timeout_s`, and OSError, EOFError or SSHException when the
    connection is lost.
    """
    arguments = _arguments(host)
    password = _password(host, arguments)
    if password is None:
        command, arguments = _line(script, arguments)
        return _said(host, command, arguments, stdin, timeout_s)
    if stdin is None:
        # Where sudo asks for none, its line must not become the script's.
        command, arguments = _line(f"exec </dev/null\n{script}", arguments, "-S -k -p ''")
        said = _said(host, command, arguments, password, timeout_s)
        _taken.add(host.name)
        return said
    if host.name not in _taken:
        # A wrong one alone, with nothing behind it: sudo would try the next line as another.
        run(host, ":", timeout_s=timeout_s)
    end = secrets.token_hex(8)
    head = f'while IFS= read -r r1 && [ "$r1" != {end} ]; do :; done\n'
    command, arguments = _line(f"{head}{script}", arguments, "-S -k -p ''")
    return _said(host, command, arguments, f"{password}\n{end}\n{stdin}", timeout_s)


def answer(host: Host, script: str, *, timeout_s: float) -> str:
    """What a script that only looks prints; the host is connected to where it is not.

    Raises what `run` does, and NotBegun for a script that fails.
    """
    if not host.connected:
        host.connect(reason="to look at it", show_errors=False, raise_exceptions=True)
    said = run(host, script, timeout_s=timeout_s)
    if not said.ok:
        last = plain(said.stderr.strip().rpartition("\n")[2]) or "nothing"
        raise NotBegun(f"it refused the command and said: {last}", "look at the host")
    return said.stdout


def prepare(data: Mapping[str, Mapping[str, object]], config: Any) -> None:
    """Read the passwords of these hosts' data now, so that nobody is asked in the middle of a run.

    Raises SudoPasswordError.
    """
    always = bool(getattr(config, "SUDO", False))
    sources = [host.get("sudo_password") for host in data.values() if host.get("_sudo", always)]
    sudo_password.read_all(str(source) for source in sources if source)


def quoted(text: str) -> str:
    r"""A text as one word of a command, for POSIX shells and fish: in quotes, fish reads `\\` and
    `\'` in its own way, so neither stands in any."""
    parts = re.split(r"(['\\])", text)
    return "".join(f"\\{part}" if part in ("'", "\\") else f"'{part}'" for part in parts if part)


_taken: set[str] = set()  # hosts whose sudo has taken its password in this run


def _arguments(host: Host) -> dict[str, Any]:
    found: Any = host.current_op_global_arguments
    if found is None:  # not in an operation
        found, _ = pop_global_arguments(host.state, host, {})
    return {key: value for key, value in found.items() if key in CONNECTOR_ARGUMENT_KEYS}


def _password(host: Host, arguments: Mapping[str, Any]) -> str | None:
    source = host.data.get("sudo_password") if arguments.get("_sudo") else None
    return sudo_password.read(str(source)) if source else None


def _line(script: str, arguments: dict[str, Any], how: str = "-n") -> tuple[str, dict[str, Any]]:
    """The command for the login shell, and what is left for pyinfra to do about it."""
    # The mark begins a line, whatever was printed before it without an end (a terminal's title).
    begin = f"echo; echo {BEGUN}; echo >&2; echo {BEGUN} >&2"
    script = f"LC_ALL=C; export LC_ALL; {begin}\n{script}"
    if any(arguments.get(key) for key in _OTHERS):
        return script, arguments
    user, sudo = arguments.get("_sudo_user"), arguments.get("_sudo")
    command = f"sh -c {quoted(script)}"
    if sudo:
        whose = f" -u {quoted(str(user))}" if user else ""
        command = f"env LC_ALL=C sudo -H {how}{whose} {command}"
    return command, arguments | {"_sudo": False, "_sudo_user": None, "_shell_executable": None}


def _said(
    host: Host, command: str, arguments: dict[str, Any], stdin: str | None, timeout_s: float
) -> Said:
    arguments = arguments | {"_timeout": timeout_s}
    if stdin is not None:
        arguments["_stdin"] = stdin
    try:
        ok, output = host.run_shell_command(
            command, print_output=False, print_input=False, **arguments
        )
    except TimeoutError:
        raise TimeoutError(f"no end after {timeout_s:g} s") from None
    _, begun, stdout = f"\n{output.stdout}\n".partition(f"\n{BEGUN}\n")
    if not begun:
        raise _not_begun(f"{output.stdout}\n{output.stderr}")
    before, begun, stderr = f"\n{output.stderr}\n".partition(f"\n{BEGUN}\n")
    return Said(ok, stdout[:-1], stderr[:-1] if begun else before.strip("\n"))


def _not_begun(text: str) -> NotBegun:
    for pattern, why, fix in _WRONG:
        if re.search(pattern, text):
            return NotBegun(why, fix)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = plain(lines[-1]) if lines else "nothing"
    return NotBegun(f"its login shell ran no command and said: {last}", f"try ssh by hand; {DOCS}")
