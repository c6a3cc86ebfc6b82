"""`r1fleet token`: who may use the fleet, in a file on the machine one works on."""

import os
from pathlib import Path

import click

WRONG = 2

_FILE = click.option(
    "--file",
    "file",
    default="~/.config/r1fleet/tokens",
    show_default=True,
    help="The store, as in gateway_tokens: file:PATH.",
)


@click.group()
def token() -> None:
    """The tokens of gateways (docs/gateway.md). A change reaches the hosts with the next run.

    \b
    Example: r1fleet token new alice
    """


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["use", "admin"]), default="use", show_default=True)
@_FILE
def new(name: str, role: str, file: str) -> None:
    """Make a token for NAME and print it, this once. Others of that name stay valid.

    use: chat, generate, embed, tags, ps, show, version and /v1; admin: also pull, create, delete,
    copy, push.

    \b
    Example: r1fleet token new alice --role use
    """
    from r1fleet.gateway import tokens  # noqa: PLC0415  here and not above: --help needs none of it

    if not tokens.NAME.fullmatch(name):
        raise _stop(f"{name!r} is no name for a token: use letters, digits and . _ @ -")
    path = Path(file).expanduser()
    text = _read(path) if path.exists() else ""
    if tokens.parse(text).key is None:
        text = f"{tokens.new_key()}\n{text}"
    secret = tokens.new_secret()
    _write(path, f"{text}{name} {role} {secret}\n")
    click.echo(secret)


@token.command("list")
@_FILE
def list_(file: str) -> None:
    """Show names, roles and eight hex digits that tell tokens of one name apart; oldest first.

    \b
    Example: r1fleet token list
    """
    from r1fleet.gateway.tokens import parse  # noqa: PLC0415

    for one in parse(_read(Path(file).expanduser())).tokens:
        click.echo(f"{one.name} {one.role} {one.mark}")


@token.command()
@click.argument("name")
@click.option("--old", is_flag=True, help="All but the newest of that name.")
@_FILE
def revoke(name: str, old: bool, file: str) -> None:
    """Take the tokens of NAME out of the store; the next run takes them from the hosts.

    \b
    Example: r1fleet token revoke alice --old
             (after `r1fleet token new alice`, a run, and a change of the clients)
    """
    from r1fleet.gateway import tokens  # noqa: PLC0415

    path = Path(file).expanduser()
    lines = _read(path).splitlines(keepends=True)
    rows = [place for place, line in enumerate(lines) if line.split()[:1] == [name]]
    gone = rows[:-1] if old else rows
    if not tokens.NAME.fullmatch(name) or not gone:
        raise _stop(f"there is no {'older ' if old else ''}token of {name!r}")
    _write(path, "".join(line for place, line in enumerate(lines) if place not in gone))
    click.echo(f"{len(gone)} of {name} revoked; hosts take it until the next run", err=True)


def _read(path: Path) -> str:
    from r1fleet.gateway import tokens  # noqa: PLC0415

    try:
        text = tokens.text_of(f"file:{path}")
        tokens.parse(text)
    except tokens.TokensError as error:
        raise _stop(f"{path}: {error}") from None
    return text if not text or text.endswith("\n") else f"{text}\n"


def _write(path: Path, text: str) -> None:
    """Put the store in place, whole, by one rename; never to be read by others."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise _stop(f"{path}: {error.strerror}") from None


def _stop(text: str) -> SystemExit:
    click.echo(f"token: {text}", err=True)
    return SystemExit(WRONG)
