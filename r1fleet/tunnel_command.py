"""`r1fleet tunnel`: the API of a host on a port of this machine, through SSH."""

import errno
import json
from typing import TYPE_CHECKING, Any

import click

from r1fleet.asked import one_of

if TYPE_CHECKING:
    from pyinfra.api import Host

    from r1fleet.settings import Settings

FAILED, UNREACHABLE = 1, 3
CHUNK_BYTES = 65536


@click.command()
@click.argument("inventory")
@click.argument("host")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=11434,
    show_default=True,
    help="On 127.0.0.1 of this machine; 0: any that is free.",
)
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
def tunnel(inventory: str, host: str, port: int, data: tuple[str, ...]) -> None:
    """Forward the API of a host to this machine, for clients that want a URL, until Ctrl-C.

    Only programs of this machine reach it.

    Exit code 0 or 130 (Ctrl-C); 1: the port is taken, or the connection was lost; 2: no such host,
    or settings are wrong; 3: it cannot be reached.

    \b
    Example: r1fleet tunnel inventories/prod.py gpu1 --port 11500
             curl http://127.0.0.1:11500/api/tags
    """
    fleet, chosen = one_of(inventory, host, data)
    settings = fleet.settings[chosen.name]
    (answer,) = fleet.ask(lambda member: _look(member, settings)).values()
    if answer.value is None:
        click.echo(f"{chosen.name}: {answer.reason}", err=True)
        raise SystemExit(FAILED if answer.is_reached else UNREACHABLE)
    _serve(chosen, settings, port, answer.value)


def _look(host: "Host", settings: "Settings") -> str:
    """The engine's version. Raises NoAnswer."""
    from r1fleet.forward import connect, request  # noqa: PLC0415
    from r1fleet.words import plain  # noqa: PLC0415

    found = json.load(request(connect(host, settings), "/api/version"))
    return plain(str(found["version"]))


def _serve(host: "Host", settings: "Settings", port: int, version: str) -> None:
    import gevent  # noqa: PLC0415
    from gevent.server import StreamServer  # noqa: PLC0415

    server = StreamServer(("127.0.0.1", port), lambda near, _: _join(near, host, settings))
    try:
        server.start()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken: give another --port" if taken else f"cannot be used: {error.strerror}"
        click.echo(f"port {port} {why}", err=True)
        raise SystemExit(FAILED) from None
    base = f"http://127.0.0.1:{server.server_port}"
    click.echo(f"{host.name}: Ollama {version} at {base} until Ctrl-C (OpenAI clients: {base}/v1)")
    transport: Any = getattr(getattr(host.connector, "client", None), "get_transport", lambda: 0)()
    while transport == 0 or transport.is_active():
        gevent.sleep(1)
    click.echo(f"{host.name}: connection lost; start it again when the host is back", err=True)
    raise SystemExit(FAILED)


def _join(near: Any, host: "Host", settings: "Settings") -> None:
    """Pass bytes both ways until one side ends; then the other is told, so that a client that
    leaves ends its generation."""
    import gevent  # noqa: PLC0415

    from r1fleet.forward import connect  # noqa: PLC0415
    from r1fleet.reach import NoAnswer  # noqa: PLC0415

    try:
        far = connect(host, settings)
    except NoAnswer as error:
        click.echo(f"{host.name}: {error}", err=True)
        return
    ways = [gevent.spawn(_pass, near, far), gevent.spawn(_pass, far, near)]
    gevent.joinall(ways, count=1)
    gevent.killall(ways)
    far.close()


def _pass(source: Any, target: Any) -> None:
    try:
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
    except OSError:
        return  # gone: the other side is closed by the caller
