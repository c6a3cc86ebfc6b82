"""How a command reaches root: through any login shell, with a password that nobody sees."""

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import elevate, secret_source, sudo_password
from r1fleet.elevate import NotBegun, quoted
from r1fleet.sudo_password import SudoPasswordError
from tests.operations.fakehost import Output

PASSWORD = "geheim 'x\\"

# Asks like sudo -S: up to three lines of standard input, and writes down what it got and how it
# was called. $WANTS is the password, empty for NOPASSWD.
SUDO = r"""#!/bin/sh
printf '%s\n' "$*" >>"$HERE/called"
case $* in *" -n "*) how=-n ;; *) how=-S ;; esac
while [ "$1" != sh ]; do shift; done
if [ -n "$WANTS" ]; then
  [ $how = -S ] || { echo "sudo: a password is required" >&2; exit 1; }
  tries=0
  while [ $tries -lt 3 ]; do
    IFS= read -r line || { echo "sudo: no password was provided" >&2; break; }
    printf '%s\n' "$line" >>"$HERE/tried"
    [ "$line" = "$WANTS" ] && exec "$@"
    tries=$((tries + 1)); echo "Sorry, try again." >&2
  done
  echo "sudo: $tries incorrect password attempts" >&2
  exit 1
fi
exec "$@"
"""


@dataclass
class OneHost:
    """Runs what its login shell gets, with the stand-in for sudo."""

    here: Path
    wants: str = ""
    noise: str = ""
    name: str = "a"
    data: dict[str, Any] = field(default_factory=dict)
    current_op_global_arguments: dict[str, Any] = field(default_factory=lambda: {"_sudo": True})
    sent: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tool = self.here / "sudo"
        tool.write_text(SUDO)
        tool.chmod(0o755)

    def run_shell_command(
        self, command: str, print_output: bool, print_input: bool, **arguments: Any
    ) -> tuple[bool, Output]:
        assert not arguments["_sudo"]
        stdin = arguments.get("_stdin", "")
        self.sent.append((command, stdin))
        done = subprocess.run(
            ["sh", "-c", f"{self.noise}\n{command}"],
            input=stdin if stdin.endswith("\n") or not stdin else f"{stdin}\n",  # as pyinfra does
            env={"PATH": f"{self.here}:{os.environ['PATH']}", "HERE": str(self.here)}
            | {"WANTS": self.wants},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0, Output(done.stdout, done.stderr)

    def said(self, file: str) -> str:
        path = self.here / file
        return path.read_text() if path.exists() else ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(elevate, "_taken", set())
    monkeypatch.setenv("R1TEST_SUDO", PASSWORD)
    sudo_password.read.cache_clear()
    return OneHost(tmp_path, wants=PASSWORD, data={"sudo_password": "env:R1TEST_SUDO"})


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_quoted_text_is_one_word_and_has_nothing_that_fish_reads_differently(text: str) -> None:
    assert shlex.split(quoted(text)) == [text]
    assert re.fullmatch(r"('[^'\\]*'|\\['\\])+", quoted(text))


def test_what_start_up_files_print_is_no_part_of_the_answer(host: OneHost) -> None:
    host.noise = "echo Willkommen; echo '@@os'; echo 'kein Terminal' >&2"
    said = elevate.run(host, "echo one; echo two; echo three >&2; exit 3")  # type: ignore[arg-type]
    assert (said.ok, said.stdout, said.stderr) == (False, "one\ntwo\n", "three\n")


@pytest.mark.parametrize("wants", [PASSWORD, ""], ids=["password", "NOPASSWD"])
def test_the_script_gets_its_own_input_whether_sudo_asks_or_not(host: OneHost, wants: str) -> None:
    host.wants = wants
    said = elevate.run(host, "cat", stdin="first\n second \\\n")  # type: ignore[arg-type]
    assert (said.ok, said.stdout) == (True, "first\n second \\\n")
    said = elevate.run(host, "cat; echo end")  # type: ignore[arg-type]
    assert said.stdout == "end\n"
    assert PASSWORD not in host.said("called")
    assert set(host.said("tried").splitlines()) == ({PASSWORD} if wants else set())


def test_the_password_is_in_no_command_line(host: OneHost) -> None:
    elevate.run(host, "cat", stdin="x")  # type: ignore[arg-type]
    assert all(PASSWORD not in command and "geheim" not in command for command, _ in host.sent)
    assert all(stdin.startswith(f"{PASSWORD}\n") or stdin == PASSWORD for _, stdin in host.sent)


def test_a_wrong_password_is_tried_once_and_nothing_is_sent_after_it(host: OneHost) -> None:
    host.wants = "another"
    with pytest.raises(NotBegun, match="sudo refused the password; check sudo_password"):
        elevate.run(host, "cat", stdin="a secret of the script")  # type: ignore[arg-type]
    assert host.said("tried") == f"{PASSWORD}\n"
    assert len(host.sent) == 1


def test_one_that_is_wanted_and_not_set_is_told(host: OneHost) -> None:
    host.data = {}
    with pytest.raises(NotBegun, match=r"sudo wants a password; set sudo_password = .*hosts\.md"):
        elevate.run(host, "true")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "why", "fix"),
    [
        ("sudo: sorry, you must have a tty to run sudo", "requiretty", "!requiretty"),
        ("anna is not in the sudoers file.", "allows this user no such", "USER ALL=(ALL) ALL"),
        (
            "Sorry, user anna is not allowed to execute '/bin/sh -c x' as root on odd.",
            "allows this user no such command",
            "sudoers",
        ),
        ("env: 'sudo': No such file or directory", "there is no sudo", "install sudo"),
        ("env: can't execute 'sudo': No such file or directory", "there is no sudo", "as root"),
        ("sudo-rs: Authentication failed, try again.", "refused the password", "sudo_password"),
        ("sudo-rs: interactive authentication is required", "wants a password", "NOPASSWD"),
        ("This account is currently not available.", "This account is currently not", "by hand"),
    ],
)
def test_each_refusal_is_one_clear_line(host: OneHost, text: str, why: str, fix: str) -> None:
    (host.here / "sudo").write_text(f"#!/bin/sh\necho {shlex.quote(text)} >&2\nexit 1\n")
    with pytest.raises(NotBegun) as refused:
        elevate.run(host, "true")  # type: ignore[arg-type]
    assert why in refused.value.why
    assert fix in refused.value.fix
    assert "\n" not in str(refused.value)


def test_as_root_there_is_no_sudo_and_one_command(host: OneHost) -> None:
    host.current_op_global_arguments = {}
    said = elevate.run(host, "cat", stdin="x")  # type: ignore[arg-type]
    assert said.stdout.strip() == "x"
    ((command, stdin),) = host.sent
    assert "sudo" not in command
    assert stdin == "x"


def test_only_hosts_that_elevate_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(sudo_password, "read", read.append)
    data = {
        "root": {"sudo_password": "ask"},
        "b": {"sudo_password": "env:B", "_sudo": True},
        "c": {"sudo_password": "env:B", "_sudo": True},
    }
    elevate.prepare(data, None)
    assert read == ["env:B"]


@pytest.mark.parametrize("text", ["", "\n", "two\nlines\n"])
def test_what_is_no_password_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SudoPasswordError, match="gives no password") as refused:
        sudo_password.read(f"file:{path}")
    assert "lines" not in str(refused.value)


def test_a_file_is_read_without_its_line_break_if_nobody_else_can(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(" with blanks \n")
    path.chmod(0o640)
    with pytest.raises(SudoPasswordError, match=f"others can read it .mode 640.; chmod 600 {path}"):
        sudo_password.read(f"file:{path}")
    path.chmod(0o600)
    assert sudo_password.read(f"file:{path}") == " with blanks "


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudo_password, "TERMINAL", Path("/nowhere/tty"))
    sudo_password.read.cache_clear()
    with pytest.raises(SudoPasswordError, match="sudo_password: ask: there is no terminal"):
        sudo_password.read("ask")


def test_a_command_is_not_shown() -> None:
    with pytest.raises(SudoPasswordError) as refused:
        sudo_password.read("command:echo hunter2 >&2; false")
    assert "hunter2" not in str(refused.value)
    assert secret_source.shown("command:pass hunter2") == "command"
