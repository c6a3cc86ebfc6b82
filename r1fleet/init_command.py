"""`r1fleet init`: a directory of one's own for a fleet, and what its hosts would get."""

import subprocess
import sys
from dataclasses import replace
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from r1fleet.init import Target

WRONG, UNREACHABLE = 2, 3


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@click.option("--dir", "folder", default=".", show_default=True, help="Where to write it.")
@click.option(
    "--sudo-password",
    metavar="SOURCE",
    help="Where sudo wants one: ask (each run asks once), env:NAME, file:PATH or command:WORDS.",
)
@click.option("--no-plan", is_flag=True, help="Only write: ask no host anything.")
def init(hosts: tuple[str, ...], folder: str, sudo_password: str | None, no_plan: bool) -> None:
    """Begin a fleet: write inventory, settings and deploy.py for HOSTS, then show the plan.

    HOSTS are as for ssh: user@host, user@host:port, or a name of ~/.ssh/config; a user who is not
    root needs sudo there. The hosts are only asked what they have, nothing is changed. What an
    update of r1fleet brings needs no change of these files.

    Exit code 0: written, and every host can be served; 1: some host cannot; 2: a file is there
    already or a host is none, and nothing was written; 3: some host cannot be reached.

    \b
    Examples: r1fleet init root@pc1 ops@pc2.example.org:2222
              r1fleet init --sudo-password ask anna@pc1 pc2
    """
    from r1fleet.init import TargetError, files, target, write  # noqa: PLC0415
    from r1fleet.sudo_password import is_source  # noqa: PLC0415

    place = Path(folder)
    try:
        if sudo_password and not is_source(sudo_password):
            raise TargetError("--sudo-password takes ask, env:NAME, file:PATH or command:WORDS")
        targets = [_with_login(target(text)) for text in hosts]
        if twice := {one.name for one in targets if [t.name for t in targets].count(one.name) > 1}:
            raise TargetError(f"{sorted(twice)[0]} is named more than once")
        content = files(targets, sudo_password)
        write(place, content)
    except (TargetError, OSError) as error:
        click.echo(f"{error}; nothing was written", err=True)
        raise SystemExit(WRONG) from None
    click.echo(f"written to {place.resolve()}: {', '.join(content)}")
    code = 0
    if not no_plan:
        argv = [sys.executable, "-m", "r1fleet.cli", "plan", "inventory.py"]
        code = subprocess.run(argv, cwd=place, check=False).returncode
        if code == UNREACHABLE:
            _say_how_to_enter()
    enter = "" if place.resolve() == Path.cwd() else f"cd {place} && "
    then = "mend what is refused above, then" if code else "Next:"
    click.echo(f"{then} {enter}pyinfra inventory.py deploy.py -y")
    raise SystemExit(code)


def _with_login(host: "Target") -> "Target":
    """A host with whom ssh would enter it as, where no user was given."""
    from pyinfra.connectors.sshuserclient.client import get_ssh_config  # noqa: PLC0415

    if host.user:
        return host
    config = None if host.name.startswith("@") else get_ssh_config()
    of_config = config.lookup(host.name).get("user") if config else None
    return replace(host, login=of_config or getuser())


def _say_how_to_enter() -> None:
    click.echo(
        "A host that cannot be reached: `ssh HOST true` must work without a question (its host"
        " key in known_hosts, your key on it); then: r1fleet plan inventory.py",
        err=True,
    )
