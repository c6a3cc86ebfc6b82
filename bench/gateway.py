"""What gateways cost: `python bench/gateway.py [--rounds N]`, on this machine alone.

An engine of its own stands in on loopback and sends tokens at a fixed pace, so that the gateways
are measured and not the CPU's speed at models. Before it stands a real Caddy with the Caddyfile of
a host, before that another one with the Caddyfile of a fleet gateway, both as r1fleet renders them
(only ports and folders are moved), with TLS and tokens. In each round 64 streams at once go
directly to the engine, through one hop, and through both. Exits 1 when the first hop gives less
than 0.9 of the tokens per second of the direct way, by the median of the rounds.
"""

import argparse
import asyncio
import multiprocessing
import socket
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import caddy
from r1fleet import paths
from r1fleet.gateway import fleet, pool
from r1fleet.gateway.caddyfile import caddyfile
from r1fleet.gateway.pool import Stand, pool_id
from r1fleet.gateway.tokens import Store, Token, caddy_lines, new_key, new_secret
from r1fleet.settings import Settings

RATIO_LEAST = 0.9
STREAMS = 64
TOKENS = 90  # of each stream
PACE_S = 1 / 30  # between two tokens of a stream
HERE = "127.0.0.1"
HOST = "gpu1"
POOL = pool_id("0" * 64, 16384)
UP_LIMIT_S = 20
ROUND_LIMIT_S = 120
ROOT = "caddy/pki/authorities/local/root.crt"


@dataclass(frozen=True)
class Way:
    """How clients reach the engine; `root` is the CA of the gateway there, PEM."""

    label: str
    port: int
    token: str = ""
    root: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        ways = set_up(stack)
        for way in ways:
            asyncio.run(streams(way))  # warms it
        found: dict[str, list[float]] = {way.label: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                found[way.label].append(asyncio.run(streams(way)))
    direct, *hops = ways
    print(
        f"{STREAMS} streams of {TOKENS} tokens at {1 / PACE_S:.0f} tokens/s, {rounds} rounds:"
        f" direct {statistics.median(found[direct.label]):.0f} tokens/s"
    )
    ratios = {hop.label: ratio(found[hop.label], found[direct.label]) for hop in hops}
    for hop in hops:
        rate = statistics.median(found[hop.label])
        print(f"{hop.label}: {rate:.0f} tokens/s, {ratios[hop.label]:.3f} of direct")
    good = ratios[hops[0].label] >= RATIO_LEAST
    print(f"through one hop at least {RATIO_LEAST}: {'yes' if good else 'missed'}")
    return 0 if good else 1


def ratio(hop: Sequence[float], direct: Sequence[float]) -> float:
    """Of each round, by the median."""
    return statistics.median(a / b for a, b in zip(hop, direct, strict=True))


def set_up(stack: ExitStack) -> tuple[Way, ...]:
    """Engine and gateways, until the stack is closed; the ways to the engine, shortest first."""
    work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    with tarfile.open(caddy.ensure(lambda text: print(text, file=sys.stderr)).archive) as archive:
        archive.extract("caddy", work, filter="data")
    engine, host, front = free_ports(3)
    stack.enter_context(paced_engine(engine))
    token = Token("bench", "use", new_secret())
    store = Store((token,), new_key().split()[1])

    own = Settings(expose="gateway", gateway_listen=f"{HERE}:{host}", port=engine)
    lines = caddy_lines([*store.tokens, store.for_host(HOST), store.health])
    root = stack.enter_context(running(work / "host", caddyfile(own, HERE), lines))
    stand = Stand(HOST, f"{HERE}:{host}", ("14b",), POOL, POOL, root=root)
    wide = Settings(gateway_listen=f"{HERE}:{front}")
    routes = pool.routes([stand], mixed=False)
    config = fleet.caddyfile(wide, HERE, [stand], routes)
    front_root = stack.enter_context(running(work / "fleet", config, fleet.secrets(store, [stand])))
    return (
        Way("direct", engine),
        Way("one hop (host gateway)", host, token.secret, root),
        Way("two hops (fleet gateway and host gateway)", front, token.secret, front_root),
    )


@contextmanager
def running(home: Path, config: str, tokens: str) -> Iterator[str]:
    """A Caddy with these files, in folders of its own; yields the certificate of its CA."""
    pools, slots = home / "pools", home / "slots"
    pools.mkdir(parents=True)
    (pools / POOL).touch()
    slots.mkdir()
    for name in ("14b-1", "14b-2"):
        (slots / name).write_text(POOL)
    marks = home / "run"
    moved = config.replace(paths.GATEWAY_POOLS, str(pools))
    moved = moved.replace(paths.GATEWAY_SLOTS, str(slots))
    moved = moved.replace(paths.DRAINING.rpartition("/")[0] + "\n", f"{marks}\n")
    moved = moved.replace("/run/r1fleet-gateway/admin.sock", str(home / "admin.sock"))
    (home / "Caddyfile").write_text(moved)
    (home / "tokens").write_text(tokens)
    command = [home.parent / "caddy", "run", "--config", home / "Caddyfile"]
    names = ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--adapter", "caddyfile"],
            env={"PATH": "/usr/bin:/bin", **dict.fromkeys(names, str(home))},
            stdout=log,
            stderr=log,
        )
        try:
            yield wait_for(home / ROOT, home / "log", process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(root: Path, log: Path, process: subprocess.Popen[bytes]) -> str:
    """The content of a file, when it is there. Ends the bench when Caddy does not come up."""
    deadline = time.monotonic() + UP_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if "serving initial configuration" in log.read_text() and root.exists():
            return root.read_text()
        time.sleep(0.1)
    raise SystemExit(f"Caddy did not come up:\n{log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind((HERE, 0))
        return [int(one.getsockname()[1]) for one in found]


async def streams(way: Way) -> float:
    """Tokens per second of all streams together, from the first connection to the last token."""
    context = ssl.create_default_context(cadata=way.root) if way.root else None
    async with asyncio.timeout(ROUND_LIMIT_S):
        began = time.monotonic()
        counts = await asyncio.gather(*(stream(way, context) for _ in range(STREAMS)))
        took_s = time.monotonic() - began
    if set(counts) != {TOKENS}:
        raise SystemExit(f"{way.label}: streams of {sorted(set(counts))} tokens, not {TOKENS}")
    return sum(counts) / took_s


async def stream(way: Way, context: ssl.SSLContext | None) -> int:
    """Ask once, and count the tokens as they come."""
    name = HERE if context else None
    reader, writer = await asyncio.open_connection(
        HERE, way.port, ssl=context, server_hostname=name
    )
    body = b'{"model":"paced","messages":[{"role":"user","content":"count"}]}'
    head = [
        "POST /api/chat HTTP/1.1",
        f"Host: {HERE}:{way.port}",
        f"Authorization: Bearer {way.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    count = 0
    while line := await reader.readline():
        count += line.startswith(b'{"message"')
    writer.close()
    return count


@contextmanager
def paced_engine(port: int) -> Iterator[None]:
    """The stand-in, as a process of its own, so that it and the clients do not wait for each
    other."""
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    process.start()
    try:
        deadline = time.monotonic() + UP_LIMIT_S
        while socket.socket().connect_ex((HERE, port)):
            if time.monotonic() > deadline:
                raise SystemExit("the stand-in engine did not come up")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.join()


def serve(port: int) -> None:
    asyncio.run(_serve(port))


async def _serve(port: int) -> None:
    server = await asyncio.start_server(answer, HERE, port, backlog=2 * STREAMS)
    async with server:
        await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The version for a health check; for anything else the tokens, each at its time."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n")
        if head.startswith(b"GET"):
            body = b'{"version":"0.0.0"}'
            writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        else:
            writer.write(b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
            await tokens(writer)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def tokens(writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    line = b'{"message":{"role":"assistant","content":" word"},"done":false}\n'
    chunk = b"%x\r\n%s\r\n" % (len(line), line)
    due = loop.time()
    for _ in range(TOKENS):
        due += PACE_S
        await asyncio.sleep(due - loop.time())
        writer.write(chunk)
        await writer.drain()
    writer.write(b"0\r\n\r\n")


if __name__ == "__main__":
    sys.exit(main())
