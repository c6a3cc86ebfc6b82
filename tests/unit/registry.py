"""A small model registry on 127.0.0.1 that can misbehave; also answers as Ollama's own pull."""

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 1 << 16
BIG = random.Random(1).randbytes(5_000_000)
SMALL = b'{"model_format":"gguf"}'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Registry:
    """Blobs by digest, the manifest of every name, and what goes wrong with them."""

    blobs: dict[str, bytes]
    manifest: bytes
    status: int = 200  # of every answer
    break_after: int | None = None  # bytes of each answer, then the line drops
    ranges: bool = True
    pause_s: float = 0.0  # after each CHUNK
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    posts: list[tuple[str, str, Any]] = field(default_factory=list)
    pull_lines: str = ""
    failures: int = 0  # answers of 500, then it is well again
    login: str | None = None  # the Authorization without which it answers 401
    gives_tokens: bool = False  # and takes a token for it, which it gives itself
    by_digest: dict[str, bytes] = field(default_factory=dict)  # manifests with no tag
    elsewhere_logins: set[str | None] = field(default_factory=set)  # seen where the bytes lie
    url: str = ""


def handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            registry.requests.append((self.path, wanted))
            login = self.headers.get("Authorization")
            if self.path.startswith("/elsewhere/"):
                registry.elsewhere_logins.add(login)
                self.send_blob(wanted)
            elif self.path.startswith("/token") and login == registry.login:
                self.answer(200, b'{"token":"t0ken"}')
            elif registry.failures:
                registry.failures -= 1
                self.answer(500, b"")
            elif registry.login and login != self.accepted():
                self.answer(401, b"")
            elif self.path.rpartition("/")[2] in registry.by_digest:
                self.answer(200, registry.by_digest[self.path.rpartition("/")[2]])
            elif registry.status != 200:
                self.answer(registry.status, b"")
            elif "/manifests/" in self.path:
                self.answer(200, registry.manifest)
            elif self.path.rpartition("/")[2] not in registry.blobs:
                self.answer(404, b"")
            else:  # as the public registry does: the bytes lie on another host
                self.send_response(307)
                self.send_header("Location", f"/elsewhere/{self.path.rpartition('/')[2]}")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def accepted(self) -> str | None:
            return "Bearer t0ken" if registry.gives_tokens else registry.login

        def send_blob(self, wanted: str | None) -> None:
            data = registry.blobs[self.path.rpartition("/")[2]]
            start, end = 0, len(data) - 1
            if wanted and registry.ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last), end) if last else end
                if start >= len(data):
                    self.answer(416, b"")
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            else:
                self.send_response(200)
            part = data[start : end + 1]
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if registry.break_after is not None and len(part) > registry.break_after:
                part, self.close_connection = part[: registry.break_after], True
            with contextlib.suppress(ConnectionError):  # who has seen the length may hang up
                for at in range(0, len(part), CHUNK):
                    self.wfile.write(part[at : at + CHUNK])
                    time.sleep(registry.pause_s)

        def engine(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            registry.posts.append((self.command, self.path, json.loads(body)))
            self.answer(200, registry.pull_lines.encode() if self.path == "/api/pull" else b"")

        do_POST = do_DELETE = engine

        def answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            if code == 401 and registry.gives_tokens:
                realm = f'Bearer realm="{registry.url}/token",service="r",scope="pull"'
                self.send_header("WWW-Authenticate", realm)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def manifest() -> bytes:
    """The manifest of a model of BIG and SMALL."""
    layers = [{"mediaType": "m", "digest": f"sha256:{sha256(BIG)}", "size": len(BIG)}]
    config = {"mediaType": "c", "digest": f"sha256:{sha256(SMALL)}", "size": len(SMALL)}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()


@contextlib.contextmanager
def serve() -> Iterator[Registry]:
    """A running registry."""
    found = Registry({f"sha256:{sha256(data)}": data for data in (BIG, SMALL)}, manifest())
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
