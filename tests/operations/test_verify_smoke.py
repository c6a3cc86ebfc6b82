"""verify.smoke with its real script against an engine's answers on 127.0.0.1."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from r1fleet import outcome
from r1fleet.verify import smoke
from r1fleet.verify.fingerprint import state, verified_entry
from r1fleet.verify.judge import SmokeWanted
from tests.operations.fakehost import FakeHost

ANSWER = "READY — prêt"
STREAM = "".join(
    f"data: {json.dumps({'choices': [{'delta': delta}]}, ensure_ascii=False)}\n\n"
    for delta in ({"reasoning": "one word"}, {"content": "READY"}, {"content": " — prêt"})
)


@dataclass
class Engine:
    """What each path answers, and what it was asked."""

    url: str = ""
    is_contended: bool = False
    answering: threading.Event = field(default_factory=threading.Event)
    looked: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(
        default_factory=lambda: {
            "/api/generate": (200, json.dumps({"done": True, "load_duration": 1_500_000_000})),
            "/api/chat": (
                200,
                json.dumps(
                    {
                        "message": {"content": ANSWER, "thinking": "one word"},
                        "eval_count": 50,
                        "eval_duration": 1_000_000_000,
                    },
                    ensure_ascii=False,
                ),
            ),
            "/v1/chat/completions": (200, STREAM + "data: [DONE]\n\n"),
            "/api/ps": (
                200,
                json.dumps(
                    {
                        "models": [
                            {
                                "name": "deepseek-r1:14b",
                                "digest": "c3" * 32,
                                "size": 100,
                                "size_vram": 100,
                                "context_length": 32768,
                            }
                        ]
                    }
                ),
            ),
        }
    )


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = Engine()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            found.asked.append((self.path, json.loads(self.rfile.read(length) or b"null")))
            code, body = found.answers[self.path]
            if self.path == "/api/ps":
                if found.is_contended and not found.answering.is_set():
                    body = '{"models": []}'
                found.looked.set()
            self.send_response(code)
            self.end_headers()
            if self.path.startswith("/v1/") and found.is_contended:
                first, body = body[:40], body[40:]
                found.answering.set()
                self.wfile.write(first.encode())
                found.looked.wait(5)
                found.answering.clear()
            self.wfile.write(body.encode())

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path, tmp_path.name)
    found.tool("nvidia-smi", "#!/bin/sh\necho '4711, /opt/ollama/x/lib/ollama/llama-server, 90'\n")
    return found


def wanted(engine: Engine) -> SmokeWanted:
    return SmokeWanted(
        base_url=engine.url,
        model="deepseek-r1:14b",
        digest="sha256:" + "c3" * 32,
        placement="gpu",
        context=32768,
        keep_alive="-1",
        prompt='Don\'t think: say "READY" — $HOME `id`',
        expect="ready — prêt",
    )


def test_a_host_that_answers_as_wanted(host: FakeHost, engine: Engine) -> None:
    want = wanted(engine)
    assert host.play(smoke.smoke._inner(want))
    found = outcome.of(host.name).smoke
    assert found
    assert found.answer == ANSWER
    assert found.tokens_per_s == 50.0
    assert found.load_s == 1.5
    messages = [{"role": "user", "content": want.prompt}]
    assert engine.asked == [
        ("/api/generate", {"model": want.model, "keep_alive": -1, "stream": False}),
        (
            "/api/chat",
            {
                "model": want.model,
                "keep_alive": -1,
                "stream": False,
                "messages": messages,
                "think": True,
            },
        ),
        (
            "/v1/chat/completions",
            {"model": want.model, "messages": messages, "stream": True},
        ),
        ("/api/ps", None),
    ]
    assert len(host.scripts) == 1


def test_a_model_that_another_client_displaced_is_loaded_and_looked_for_again(
    host: FakeHost, engine: Engine
) -> None:
    code, body = engine.answers["/api/ps"]
    engine.answers["/api/ps"] = (code, '{"models": []}')
    at_first = host.root / "asked"
    text = f"[ -e '{at_first}' ] && echo '1, /opt/ollama/x/lib/ollama/llama-server, 9'"
    host.tool("nvidia-smi", f"#!/bin/sh\n{text}\ntouch '{at_first}'\n")
    answers, engine.answers = engine.answers, Displaced(engine.answers, body)
    assert host.play(smoke.smoke._inner(wanted(engine)))
    again = ["/api/ps", "/v1/chat/completions", "/api/ps"]
    assert [path for path, _ in engine.asked[3:]] == again
    engine.answers = answers
    assert not host.play(smoke.smoke._inner(wanted(engine)))
    assert "is not loaded after it answered" in (outcome.of(host.name).failure or "")


def test_a_model_is_looked_for_while_it_answers(host: FakeHost, engine: Engine) -> None:
    """A client of another model waits all the time: after its last word this one is gone."""
    engine.is_contended = True
    assert host.play(smoke.smoke._inner(wanted(engine)))
    assert [path for path, _ in engine.asked].count("/api/ps") == 1


class Displaced(dict[str, tuple[int, str]]):
    """/api/ps shows the model from the second look on."""

    def __init__(self, answers: dict[str, tuple[int, str]], later: str) -> None:
        super().__init__(answers)
        self.later = later

    def __getitem__(self, path: str) -> tuple[int, str]:
        found = super().__getitem__(path)
        if path == "/api/ps":
            self[path] = (200, self.later)
        return found


def test_a_keep_alive_with_a_unit_stays_text(host: FakeHost, engine: Engine) -> None:
    assert host.play(smoke.smoke._inner(replace(wanted(engine), keep_alive="5m")))
    assert engine.asked[0][1]["keep_alive"] == "5m"


def test_without_nvidia_s_cards_no_nvidia_smi_is_asked(host: FakeHost, engine: Engine) -> None:
    asked = host.root / "asked"
    host.tool("nvidia-smi", f"#!/bin/sh\ntouch '{asked}'\n")
    assert host.play(smoke.smoke._inner(replace(wanted(engine), nvidia=False)))
    assert not asked.exists()
    assert not host.play(smoke.smoke._inner(wanted(engine)))
    assert asked.exists()


def test_a_spill_fails_the_host_whatever_it_answers(host: FakeHost, engine: Engine) -> None:
    code, body = engine.answers["/api/ps"]
    engine.answers["/api/ps"] = (code, body.replace('"size_vram": 100', '"size_vram": 61'))
    assert not host.play(smoke.smoke._inner(wanted(engine)))
    failure = outcome.of(host.name).failure
    assert failure
    assert failure.startswith(
        "verify: deepseek-r1:14b: answers from the CPU: 61 % of the model is in VRAM"
    )
    assert outcome.of(host.name).smoke


def test_other_faults_are_told_too(host: FakeHost, engine: Engine) -> None:
    strict = replace(wanted(engine), tokens_per_s_min=99, context=4096)
    assert not host.play(smoke.smoke._inner(strict))
    assert "the context is 32768" in (outcome.of(host.name).failure or "")
    assert "50.0 tokens/s" in outcome.of(host.name).warnings[0]


def test_a_model_that_does_not_load(host: FakeHost, engine: Engine) -> None:
    engine.answers["/api/generate"] = (500, '{"error":"llama-server process has terminated"}')
    assert not host.play(smoke.smoke._inner(wanted(engine)))
    assert outcome.of(host.name).failure == (
        "verify: deepseek-r1:14b: loading the model failed: HTTP 500, llama-server process has"
        " terminated; see `journalctl -u ollama`"
    )


def test_no_engine(host: FakeHost, engine: Engine) -> None:
    assert not host.play(smoke.smoke._inner(replace(wanted(engine), base_url="http://127.0.0.1:9")))
    assert "curl: (7)" in (outcome.of(host.name).failure or "")


def test_a_dry_run_asks_nothing(engine: Engine) -> None:
    (command,) = smoke.smoke._inner(wanted(engine))
    assert command.args[:2] == (
        "verify",
        "loads deepseek-r1:14b and asks it the smoke prompt",
    )
    assert engine.asked == []


def test_state_is_written_once(host: FakeHost, engine: Engine) -> None:
    assert host.play(smoke.smoke._inner(wanted(engine)))
    figures = outcome.of(host.name).smoke
    assert figures
    record = state({"tag": "14b"}, {}, verified_entry(figures, "stamp", "r1:14b", "s"), ("/m", "/"))
    assert host.play(smoke.write_state._inner(record, {}))
    written = host.at("/var/lib/r1fleet/state.json")
    found = json.loads(written.read_text())
    assert found == record
    assert written.stat().st_mode & 0o777 == 0o644
    assert list(smoke.write_state._inner(record, found)) == []
