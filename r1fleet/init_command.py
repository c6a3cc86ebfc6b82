"""`r1fleet init`: a directory of one's own for a fleet, and what its hosts would get."""

import subprocess
import sys
from pathlib import Path

import click

WRONG = 2


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@click.option("--dir", "folder", default=".", show_default=True, help="Where to write it.")
@click.option("--no-plan", is_flag=True, help="Only write: ask no host anything.")
def init(hosts: tuple[str, ...], folder: str, no_plan: bool) -> None:
    """Begin a fleet: write inventory, settings and deploy.py for HOSTS, then show the plan.

    HOSTS are as for ssh, user@host or user@host:port; a user who is not root needs sudo there. The
    hosts are only asked what they have, nothing is changed. What an update of r1fleet brings needs
    no change of these files.

    Exit code 0: written, and every host can be served; 1: some host cannot; 2: a file is there
    already or a host is none, and nothing was written; 3: some host cannot be reached.

    \b
    Example: r1fleet init root@pc1 ops@pc2.example.org:2222
    """
    from r1fleet.init import TargetError, files, target, write  # noqa: PLC0415

    place = Path(folder)
    try:
        targets = [target(text) for text in hosts]
        if twice := {one.name for one in targets if [t.name for t in targets].count(one.name) > 1}:
            raise TargetError(f"{sorted(twice)[0]} is named more than once")
        content = files(targets)
        write(place, content)
    except (TargetError, OSError) as error:
        click.echo(f"{error}; nothing was written", err=True)
        raise SystemExit(WRONG) from None
    click.echo(f"written to {place.resolve()}: {', '.join(content)}")
    code = 0
    if not no_plan:
        argv = [sys.executable, "-m", "r1fleet.cli", "plan", "inventory.py"]
        code = subprocess.run(argv, cwd=place, check=False).returncode
        if code:
            _say_how_to_enter(targets[0].name)
    enter = "" if place.resolve() == Path.cwd() else f"cd {place} && "
    click.echo(f"Next: {enter}pyinfra inventory.py deploy.py -y")
    raise SystemExit(code)


def _say_how_to_enter(name: str) -> None:
    click.echo(
        f"A host that cannot be reached: `ssh {name} true` must work without a question (its host"
        " key in known_hosts, your key on it); then: r1fleet plan inventory.py",
        err=True,
    )
