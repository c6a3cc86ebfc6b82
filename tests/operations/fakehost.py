"""A host that is a folder: scripts of operations really run, with their paths moved below it.

systemctl and systemd-run are stand-ins that know one transient unit.
"""

import os
import shlex
import stat
import subprocess
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pyinfra.api import FunctionCommand, Host, State

MOVED = ("/var/lib/r1fleet", "/usr/local/lib/r1fleet", "/run/r1fleet-pull")

SYSTEMD_RUN = """#!/bin/sh
while :; do case $1 in --*) shift ;; -p) shift 2 ;; *) break ;; esac; done
( "$@" >"$ROOT/unit.log" 2>&1 </dev/null; rm -f "$ROOT/unit" ) &
echo $! >"$ROOT/unit"
echo started >>"$ROOT/starts"
"""

SYSTEMCTL = """#!/bin/sh
case $1 in
  is-active) [ "$2" = -q ] || { [ -e "$ROOT/unit" ] && echo active || echo inactive; }
    [ -e "$ROOT/unit" ] ;;
  stop) echo stopped >>"$ROOT/starts"; rm -f "$ROOT/unit" ;;
esac
"""


@dataclass
class Output:
    stdout: str
    stderr: str


@dataclass
class FakeHost:
    """Stands in for pyinfra's Host as far as r1fleet.remote uses it."""

    root: Path
    name: str
    print_prefix: str = ""
    current_op_global_arguments: dict[str, Any] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    connector: Any = None
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tool, text in (("systemd-run", SYSTEMD_RUN), ("systemctl", SYSTEMCTL)):
            self.tool(tool, text)

    def tool(self, name: str, text: str) -> None:
        """Put a program first in the host's PATH."""
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def at(self, path: str) -> Path:
        """Where a path of the host lies here."""
        return self.root / path.lstrip("/")

    def starts(self) -> list[str]:
        """What was done to the unit."""
        log = self.root / "starts"
        return log.read_text().split() if log.exists() else []

    def run_shell_command(
        self, command: str, print_output: bool, print_input: bool, **arguments: Any
    ) -> tuple[bool, Output]:
        words = shlex.split(command)
        if words[:2] == ["sh", "-c"] and len(words) == 3:  # as r1fleet.elevate sends it
            command = words[2]
        for path in MOVED:
            command = command.replace(path, str(self.at(path)))
        self.scripts.append(command)
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "ROOT": str(self.root),
            "R1_RUN": str(self.at("/run/r1fleet-pull")),
            "R1_WAITS": "0.05 0.05 0.05 0.05",
        }
        done = subprocess.run(
            ["sh", "-c", command],
            input=arguments.get("_stdin", ""),
            env=environment,
            capture_output=True,
            text=True,
            timeout=arguments["_timeout"],
            check=False,
        )
        return done.returncode == 0, Output(done.stdout, done.stderr)

    def play(self, commands: Iterable[FunctionCommand]) -> bool:
        """Do what an operation yields, as pyinfra does: up to the first failure."""
        for command in commands:
            state, host = cast(State, None), cast(Host, self)
            if command.function(state, host, *command.args, **command.kwargs) is False:
                if isinstance(commands, Generator):
                    commands.close()
                return False
        return True
