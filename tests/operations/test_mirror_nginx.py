"""The mirror's own file under a real nginx, before a registry that redirects its blobs."""

import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from r1fleet.mirror import plan
from r1fleet.settings import Settings
from tests.unit.registry import BIG, Registry, handler, serve, sha256

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin") or "nginx"
BLOB = f"/v2/library/m/blobs/sha256:{sha256(BIG)}"


@dataclass
class Running:
    url: str
    registry: Registry

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, str | None]:
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read(), answer.headers.get("Location")
        except urllib.error.HTTPError as error:
            return error.code, b"", None

    def fetched(self) -> list[str | None]:
        """The ranges that crossed, of blobs."""
        return [part for path, part in self.registry.requests if path.startswith("/elsewhere/")]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "resolver.conf").touch()
    certify(tmp_path)
    with serve() as registry, before(registry, registry.url, tmp_path) as running:
        yield running


@contextmanager
def before(registry: Registry, url: str, home: Path) -> Iterator[Running]:
    """nginx with the mirror's file, in front of a registry; `authority` holds whom it trusts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        registry_url=url,
        engine_url=f"{url}/v2/library",
        engine_sha256="0" * 64,
        mirror_port=port,
        mirror_bind="127.0.0.1",
        mirror_dir="/srv/mirror",
    )
    text = plan.wanted(settings, []).files[0].content
    text = text.replace("/run/r1fleet-mirror", str(home))
    text = text.replace("/srv/mirror", str(home)).replace("min_free=1g", "")
    text = text.replace("syslog:server=unix:/dev/log,nohostname,tag=r1fleet_mirror", "off;#")
    text = text.replace(plan.CERTIFICATES, str(home / "authority"))
    user = "user root;\n" if os.geteuid() == 0 else ""
    (home / "mirror.conf").write_text(user + text)
    command = [str(NGINX), "-e", "stderr", "-c", str(home / "mirror.conf")]
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        running = Running(f"http://127.0.0.1:{port}", registry)
        wait(running)
        yield running
    finally:
        process.terminate()
        process.wait(timeout=20)


def certify(home: Path) -> None:
    """A key, and a certificate for registry.test that is its own authority."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(home / "key"), "-out", str(home / "authority")]
    command += ["-subj", "/CN=registry.test", "-addext", "subjectAltName=DNS:registry.test"]
    subprocess.run(command, check=True, capture_output=True)


class Names(socketserver.BaseRequestHandler):
    """A name server that knows 127.0.0.1 for every name, and no other kind of record."""

    def handle(self) -> None:
        data, back = self.request
        question = data[12 : data.index(b"\0", 12) + 5]
        is_address = question[-4:-2] == b"\0\1"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if is_address else b""
        counts = b"\0\1\0" + bytes([is_address]) + b"\0\0\0\0"
        back.sendto(data[:2] + b"\x81\x80" + counts + question + answer, self.client_address)


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[int]:
    """Serve in a thread; the port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("known", [True, False])
def test_a_source_with_https_is_looked_up_and_must_prove_itself(
    tmp_path: Path, known: bool
) -> None:
    certify(tmp_path)
    name = "registry.test" if known else "another.test"
    with serve() as registry:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(registry))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "authority", tmp_path / "key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        names = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Names)
        with running(server) as port, running(names) as dns:
            (tmp_path / "resolver.conf").write_text(f"resolver 127.0.0.1:{dns};\n")
            with before(registry, f"https://{name}:{port}", tmp_path) as mirror:
                assert mirror.get(BLOB)[:2] == ((200, BIG) if known else (502, b""))
                assert bool(registry.requests) is known


def wait(running: Running) -> None:
    for _ in range(200):
        try:
            running.get(plan.ABOUT)
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx did not come up")


def test_it_says_what_it_stands_for(mirror: Running) -> None:
    text = mirror.get(plan.ABOUT)[1].decode()
    assert text == f"registry {mirror.registry.url}\nengine {mirror.registry.url}/v2/library\n"


def test_hosts_that_start_together_fetch_each_part_once(mirror: Running) -> None:
    mirror.registry.pause_s = 0.005
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(mirror.get, [BLOB] * 8))
    # The Location is what Ollama's own pull needs.
    assert set(answers) == {(200, BIG, BLOB)}
    parts = mirror.fetched()
    assert len(parts) == len(set(parts)) == -(-len(BIG) // (4 << 20))
    assert mirror.get(BLOB, Range="bytes=4999990-")[:2] == (206, BIG[4999990:])
    assert mirror.get(BLOB, "HEAD")[:2] == (200, b"")
    assert mirror.fetched() == parts


def test_a_part_of_a_blob_brings_no_more_than_its_slice(mirror: Running) -> None:
    assert mirror.get(BLOB, Range="bytes=10-19")[:2] == (206, BIG[10:20])
    assert mirror.fetched() == ["bytes=0-4194303"]


def test_the_last_known_tag_is_served_while_the_source_is_away(mirror: Running) -> None:
    path = "/v2/library/m/manifests/7b"
    for status in (200, 500):
        mirror.registry.status = status
        assert mirror.get(path)[:2] == (200, mirror.registry.manifest)
    assert len(mirror.registry.requests) == 1
    assert mirror.get("/v2/library/m/manifests/8b")[0] == 500  # never seen


def test_a_source_that_fails_is_no_content(mirror: Running) -> None:
    mirror.registry.status = 500
    assert mirror.get(BLOB)[0] == 500
    mirror.registry.status = 200
    assert mirror.get(BLOB)[:2] == (200, BIG)


def test_nothing_else_is_answered(mirror: Running) -> None:
    for path in ("/", "/v2/", f"{BLOB}x", "/v2/_catalog", "/engine/x", "/http://127.0.0.1/"):
        assert mirror.get(path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert mirror.get(BLOB, method)[0] == 405, method
    assert mirror.registry.requests == mirror.registry.posts == []
