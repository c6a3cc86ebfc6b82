"""Waiting for running requests: the real script, with a process that looks like llama-server."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from r1fleet import drain, outcome, paths
from r1fleet.hostfacts import LoadedModel
from tests.operations.fakehost import FakeHost
from tests.unit.build import bare


class Slots:
    """How many slots are at work at each look; the last one stays."""

    def __init__(self) -> None:
        self.busy = [0]
        self.looks = 0
        self.port = 0


@pytest.fixture
def slots() -> Iterator[Slots]:
    found = Slots()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            busy = found.busy[min(found.looks, len(found.busy) - 1)]
            found.looks += 1
            words = ['{"id":0,"is_processing":false}', *['{"is_processing":true}'] * busy]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"[{','.join(words)}]".encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def host(tmp_path: Path, slots: Slots, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    monkeypatch.setattr(paths, "ENGINE_ROOT", str(tmp_path))
    program = tmp_path / "llama-server"
    shutil.copy("/bin/sh", program)
    # Its own name and port are all that the script goes by.
    script = ["-c", "read -r _", "x", "--port", str(slots.port)]
    process = subprocess.Popen([program, *script], stdin=subprocess.PIPE)
    yield FakeHost(tmp_path, tmp_path.name)
    process.kill()
    process.communicate()


def test_it_waits_until_two_looks_find_nothing(host: FakeHost, slots: Slots) -> None:
    slots.busy = [2, 0, 1, 0, 0]
    assert host.play([drain.wait("engine", "waits", 30)])
    assert slots.looks == 5
    assert outcome.of(host.name).warnings == []


def test_the_limit_is_told_with_what_it_means(host: FakeHost, slots: Slots) -> None:
    slots.busy = [3]
    assert host.play([drain.wait("engine", "waits", 1)])
    (told,) = outcome.of(host.name).warnings
    assert told == "3 requests were still running after 1 s: they were cut off"


def test_a_server_that_does_not_answer_counts_as_busy(host: FakeHost, slots: Slots) -> None:
    host.tool("curl", "#!/bin/sh\nexit 28\n")
    assert host.play([drain.wait("engine", "waits", 1)])
    assert "1 requests were still running" in outcome.of(host.name).warnings[0]


def test_nothing_is_asked_where_no_model_is_loaded_or_nobody_wants_to_wait() -> None:
    loaded = bare(loaded=(LoadedModel("m", "d", 1, 1, 1),))
    assert list(drain.drain._inner(bare(), 60)) == []
    assert list(drain.drain._inner(loaded, 0)) == []
    assert len(list(drain.drain._inner(loaded, 60))) == 1
