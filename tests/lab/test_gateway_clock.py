"""The gateway's Caddyfile under the lab's own Caddy, before a stand-in of an engine on loopback.

Simulated: the engine, which answers as slowly as a test wants; and the clock, in that every limit
of time is one second in place of at most sixty.
"""

import hashlib
import http.client
import json
import os
import select
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab import paths as lab_paths
from r1fleet import paths
from r1fleet.gateway.caddyfile import Limits, caddyfile
from r1fleet.settings import Settings
from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab

SHORT = Limits(read_header_s=1, read_body_s=1, write_stall_s=1, idle_s=1)
TOKENS = tuple(f"r1f_{letter * 43}" for letter in "ab")
WORDS = 8
PAUSE_S = 1.6


class Engine(ThreadingHTTPServer):
    """/api/chat sends a word each PAUSE_S; /api/generate says nothing until its client leaves;
    /api/show tells the SHA-256 of the body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.left: list[str] = []  # paths whose client went away
        self.sent: list[float] = []  # when each word of a stream was sent, and its end
        self.asked = threading.Event()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def log_message(self, format: str, *args: object) -> None:
        pass

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body = self.body()
        self.server.asked.set()
        if self.path == "/api/chat":
            self.stream()
        elif self.path == "/api/generate":
            ready, _, _ = select.select([self.connection], [], [], 20)
            if ready and self.connection.recv(1) == b"":
                self.server.left.append(self.path)
            self.close_connection = True
        else:
            said = hashlib.sha256(body).hexdigest().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(WORDS):
                line = json.dumps({"word": number}).encode() + b"\n"
                self.server.sent.append(time.monotonic())
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                time.sleep(PAUSE_S)
            self.server.sent.append(time.monotonic())
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.left.append(self.path)


class Gateway:
    """Caddy with the Caddyfile of a host, its paths below a folder."""

    def __init__(self, folder: Path, caddy: Path, engine: Engine) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder, self.caddy = folder, caddy
        settings = Settings(
            expose="gateway",
            gateway_tls="off",
            gateway_listen=f"127.0.0.1:{self.port}",
            port=engine.server_port,
        )
        text = caddyfile(settings, "127.0.0.1", SHORT)
        text = text.replace("/run/r1fleet-gateway/", f"{folder}/")
        text = text.replace("/run/r1fleet", f"{folder}/run")
        (folder / "Caddyfile").write_text(text.replace(paths.GATEWAY_POOLS, f"{folder}/pools"))
        self.write(TOKENS[0])
        self.environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [*self.words("run")], env=self.environment, stdout=self.log, stderr=self.log
        )
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((folder / "log").read_text())

    def words(self, verb: str) -> list[str]:
        return [
            str(self.caddy),
            verb,
            "--config",
            f"{self.folder}/Caddyfile",
            "--adapter",
            "caddyfile",
        ]

    def write(self, *tokens: str) -> None:
        (self.folder / "tokens").write_text("".join(f"{token} alice use\n" for token in tokens))

    def reload(self) -> None:
        subprocess.run(
            [*self.words("reload"), "--force"],
            env=self.environment,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def ask(self, path: str, body: Any = b"{}", token: str = TOKENS[0]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        chunked = not isinstance(body, bytes)
        connection.request(
            "POST", path, body, {"Authorization": f"Bearer {token}"}, encode_chunked=chunked
        )
        return connection.getresponse()

    def end(self) -> None:
        self.process.kill()  # at once: a stream of a test may go on
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def caddy(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    version = lab.state.gateway_version
    archive = lab_paths.lab_dir() / f"www/caddy/v{version}/caddy_{version}_linux_amd64.tar.gz"
    folder = tmp_path_factory.mktemp("caddy")
    with tarfile.open(archive) as tar:
        tar.extract("caddy", folder, filter="data")
    return folder / "caddy"


@pytest.fixture
def engine() -> Iterator[Engine]:
    running = Engine()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def gateway(tmp_path: Path, caddy: Path, engine: Engine) -> Iterator[Gateway]:
    running = Gateway(tmp_path, caddy, engine)
    yield running
    running.end()


def test_a_stream_outlives_every_limit_many_times(gateway: Gateway, engine: Engine) -> None:
    """In the hosts' clock the longest limit is a minute: this stream would be over ten of them."""
    assert max(astuple(Limits())[:2] + (Limits().write_stall_s, Limits().idle_s)) == 60
    begin = time.monotonic()
    answer = gateway.ask("/api/chat")
    arrived = [(time.monotonic(), json.loads(line)["word"]) for line in answer]
    print(f"words after {', '.join(f'{at - begin:.1f}' for at, _ in arrived)} s; each limit is 1 s")
    assert [word for _, word in arrived] == list(range(WORDS))
    # Each came before the next was sent: nothing was kept back.
    assert all(at < then for (at, _), then in zip(arrived, engine.sent[1:], strict=True))
    assert arrived[-1][0] - begin > 10


def test_a_stream_goes_on_over_a_change_of_tokens(gateway: Gateway) -> None:
    answer = gateway.ask("/api/chat")
    assert json.loads(answer.readline()) == {"word": 0}
    gateway.write(TOKENS[1])
    gateway.reload()
    assert gateway.ask("/api/show").status == 401
    assert gateway.ask("/api/show", token=TOKENS[1]).status == 200
    assert [json.loads(line)["word"] for line in answer] == list(range(1, WORDS))


def waits_for(engine: Engine, path: str) -> bool:
    for _ in range(100):
        if path in engine.left:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_client_that_leaves_ends_its_generation(
    gateway: Gateway, engine: Engine, path: str
) -> None:
    """Also one that has not got a word yet."""
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS[0]}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
        client.sendall(f"{request}Content-Length: 2\r\n\r\n{{}}".encode())
        assert engine.asked.wait(10)
    assert waits_for(engine, path)


@pytest.mark.parametrize("size", [2, 999_999, 1_000_000, 20_000_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_pass_as_they_are(gateway: Gateway, size: int, chunked: bool) -> None:
    body = (b'{"model":"a:b","x":"' + b"y" * size)[:size]
    sent = iter([body[: size // 2], body[size // 2 :]]) if chunked else body
    answer = gateway.ask("/api/show", sent)
    assert answer.read().decode() == hashlib.sha256(body).hexdigest()


def test_a_large_body_never_reaches_the_engine(gateway: Gateway, engine: Engine) -> None:
    request = f"POST /api/show HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS[0]}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
        client.sendall(f"{request}Content-Length: 40000000\r\n\r\n".encode() + b"x" * 300_000)
        assert b" 413 " in client.recv(4096)
    assert not engine.asked.is_set()


def test_the_log_has_the_model_and_no_word_of_the_body(gateway: Gateway) -> None:
    body = b'{"messages":[{"content":"xylophone \\"model\\":\\"no\\""}],"model":"a/b:c"}'
    gateway.ask("/api/show?q=xylophone", body).read()
    rows = []
    for _ in range(50):
        text = (gateway.folder / "log").read_text()
        rows = [json.loads(line) for line in text.splitlines() if "handled request" in line]
        if rows:
            break
        time.sleep(0.1)
    assert (rows[0]["model"], rows[0]["token"], rows[0]["path"]) == ("a/b:c", "alice", "/api/show")
    assert "xylophone" not in text
    assert TOKENS[0] not in text
