"""`r1fleet ask`: a question to the fleet, its thought and answer as they come."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from r1fleet.asked import fleet_of

if TYPE_CHECKING:
    from pyinfra.api import Host

    from r1fleet.reach import Fleet

FAILED, UNREACHABLE = 1, 3
LOOK_LIMIT_S = 30


@click.command()
@click.argument("inventory")
@click.argument("question")
@click.option("--host", help="Ask this one; else the first that has its model loaded.")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
def ask(inventory: str, question: str, host: str | None, data: tuple[str, ...]) -> None:
    """Ask the model a question, through SSH: nothing needs to be shared for it.

    The thought and what served it go to stderr, the answer alone to stdout. `-` reads the
    question from standard input. Ctrl-C ends it, there as well.

    Exit code 0: answered; 1: no answer; 2: no such host, or settings are wrong; 3: unreachable.

    \b
    Examples: r1fleet ask inventories/prod.py "Why is the sky blue?"
              r1fleet ask inventories/prod.py --host gpu1 - < question.txt > answer.txt
    """
    from r1fleet.reach import NoAnswer  # noqa: PLC0415

    if question == "-":
        question = sys.stdin.read()
    if not question.strip():
        raise click.UsageError("the question is empty")
    fleet = fleet_of(inventory, (host,) if host else (), data)
    chosen, model = _choose(fleet)
    try:
        _play(chosen, fleet, model, question)
    except NoAnswer as error:
        click.echo(f"\n{chosen.name}: {error}", err=True)
        raise SystemExit(FAILED) from None


def _choose(fleet: "Fleet") -> "tuple[Host, str]":
    """The first host that has the fleet's model loaded, else the first that has it at all."""
    answers = fleet.ask(lambda host: _models(host, fleet), LOOK_LIMIT_S)
    able = [(host, answers[host.name].value) for host in fleet.hosts]
    ready = [(host, found) for host, found in able if found]
    ready.sort(key=lambda pair: not pair[1][1])  # stable: the inventory's order stays
    if ready:
        chosen, (model, _) = ready[0]
        return chosen, model
    for host in fleet.hosts:
        click.echo(f"{host.name}: {answers[host.name].reason}", err=True)
    reached = any(answer.is_reached for answer in answers.values())
    raise SystemExit(FAILED if reached else UNREACHABLE)


def _models(host: "Host", fleet: "Fleet") -> tuple[str, bool]:
    """The name to ask for on a host, and whether it is loaded. Raises NoAnswer."""
    from r1fleet.forward import connect, request  # noqa: PLC0415
    from r1fleet.reach import NoAnswer  # noqa: PLC0415
    from r1fleet.words import plain  # noqa: PLC0415

    settings = fleet.settings[host.name]
    if not settings.serve:
        raise NoAnswer("it serves no model (serve: false)")
    found: dict[str, list[dict[str, Any]]] = {}
    for path in ("/api/tags", "/api/ps"):
        found[path] = json.load(request(connect(host, settings), path)).get("models") or []
    here = {row["name"]: row["digest"] for row in found["/api/tags"]}
    loaded = {row["name"] for row in found["/api/ps"]}
    digests = {row["digest"] for row in found["/api/ps"]}
    own = settings.alias or next((name for name in here if name in loaded), None)
    if own is None or own not in here:
        raise NoAnswer(f"it has no {own or 'loaded model'} yet: run deploy.py")
    return plain(own), own in loaded or here[own] in digests


def _play(host: "Host", fleet: "Fleet", model: str, question: str) -> None:
    from r1fleet.forward import connect, lines, request  # noqa: PLC0415
    from r1fleet.words import plain  # noqa: PLC0415

    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True}
    stream = connect(host, fleet.settings[host.name])
    thinking, last = False, {}
    for last in lines(request(stream, "/api/chat", body)):
        message = last.get("message", {})
        if thought := message.get("thinking"):
            click.secho(plain(thought), dim=True, nl=False, err=True)
            thinking = True
        if text := message.get("content"):
            if thinking:
                click.echo("\n", err=True)
                thinking = False
            # A file gets it as it is; a terminal would do what it says.
            click.echo(plain(text) if sys.stdout.isatty() else text, nl=False)
    click.echo()
    click.secho(f"{host.name}, {model}{_speed(last)}", dim=True, err=True)


def _speed(last: dict[str, Any]) -> str:
    tokens, nanoseconds = last.get("eval_count", 0), last.get("eval_duration", 0)
    return f", {tokens / nanoseconds * 1e9:.1f} tokens/s" if nanoseconds else ""
