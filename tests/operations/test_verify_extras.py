"""verify.extras with its real script against an engine's answers on 127.0.0.1."""

import json
from pathlib import Path
from typing import Any

import pytest

from r1fleet import decide, outcome
from r1fleet.settings import Settings
from r1fleet.sizing import Gpu, Hardware, choose, policy
from r1fleet.verify import extras
from r1fleet.verify.extras import ExtraWanted
from r1fleet.verify.fingerprint import fingerprint
from tests.operations.fakehost import FakeHost
from tests.operations.test_verify_smoke import Engine, engine, wanted
from tests.unit.build import bare

__all__ = ["engine"]  # a fixture

EMBEDS = ExtraWanted("nomic-embed-text:latest", "sha256:" + "e1" * 32, True, "gpu")
WRITES = ExtraWanted("deepseek-r1:1.5b", "sha256:" + "e2" * 32, False, "gpu")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path, tmp_path.name)


def answers(engine: Engine, *, loaded: str = "c3 e1 e2", in_vram: int = 100) -> None:
    rows = [
        {"name": name, "digest": name * 32, "size": 100, "size_vram": in_vram}
        for name in loaded.split()
    ]
    engine.answers["/api/ps"] = (200, json.dumps({"models": rows}))
    engine.answers["/api/embed"] = (200, json.dumps({"embeddings": [[0.0, -0.25, 0.5]]}))
    engine.answers["/api/generate"] = (200, json.dumps({"response": "Hé", "eval_count": 2}))


def ask(host: FakeHost, engine: Engine, *models: ExtraWanted) -> str | None:
    """The failure; None when all is well."""
    host.play(extras.extras._inner(wanted(engine), models))
    return outcome.of(host.name).failure


def test_each_is_asked_in_its_own_way_and_held_like_r1(host: FakeHost, engine: Engine) -> None:
    answers(engine)
    assert ask(host, engine, EMBEDS, WRITES) is None
    assert [path for path, _ in engine.asked] == [
        "/api/generate",
        "/api/embed",
        "/api/generate",
        "/api/ps",
    ]
    models = [body["model"] for _, body in engine.asked if body]
    assert models == ["deepseek-r1:14b", EMBEDS.model, WRITES.model]
    assert [body["keep_alive"] for _, body in engine.asked if body] == [-1, -1, -1]
    assert len(host.scripts) == 1


def test_r1_that_was_unloaded_for_it_fails_the_host(host: FakeHost, engine: Engine) -> None:
    answers(engine, loaded="e1")
    failure = ask(host, engine, EMBEDS)
    assert failure
    assert "deepseek-r1:14b: it was unloaded to make room for nomic-embed-text:latest" in failure
    assert "ollama_max_loaded_models" in failure


def test_one_that_spills_fails_the_host_and_on_a_cpu_does_not(
    host: FakeHost, engine: Engine
) -> None:
    answers(engine, in_vram=40)
    on_cpu = ExtraWanted(EMBEDS.model, EMBEDS.digest, True, "cpu")
    assert ask(host, engine, on_cpu) is None
    assert "nomic-embed-text:latest: only 40% of it is in VRAM" in (ask(host, engine, EMBEDS) or "")


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [
        ("/api/embed", (500, '{"error":"no such runner"}'), "HTTP 500, no such runner"),
        ("/api/embed", (200, '{"embeddings":[]}'), "gave no embedding"),
        ("/api/embed", (200, '{"embeddings":[[0.0,0.0]]}'), "gave no embedding"),
        ("/api/embed", (200, "\x00 not JSON"), "gave no embedding"),
        ("/api/generate", (200, '{"response":""}'), "gave no text"),
    ],
)
def test_one_that_does_not_answer_fails_the_host(
    host: FakeHost, engine: Engine, path: str, answer: tuple[int, str], told: str
) -> None:
    answers(engine)
    engine.answers[path] = answer
    assert told in (ask(host, engine, EMBEDS, WRITES) or "")


def test_without_extra_models_nothing_is_asked(engine: Engine) -> None:
    assert list(extras.extras._inner(wanted(engine), ())) == []


def choice_of(**settings: Any) -> tuple[Settings, Any]:
    found = Settings(**settings)
    return found, choose(Hardware((Gpu(0, "A100", 81920, (8, 0)),), 65536, 8), policy(found)).chosen


def test_they_are_wanted_by_full_name_with_their_pins_and_never_twice() -> None:
    pin = "sha256:" + "ab" * 32
    settings, choice = choice_of(
        tag="14b",
        extra_models=("nomic-embed-text", "deepseek-r1:14b", "deepseek-r1:1.5b"),
        model_digests={"nomic-embed-text:latest": pin},
        context_min=4096,
    )
    found = decide.extras_wanted(settings, choice)
    assert [want.name for want in found] == ["nomic-embed-text:latest", "deepseek-r1:1.5b"]
    assert [want.digest for want in found] == [pin, None]
    embeds, writes = (decide.extra_wanted(settings, choice, want.name, "") for want in found)
    assert (embeds.path, writes.path) == ("/api/embed", "/api/generate")


def test_another_extra_model_asks_for_a_new_proof(engine: Engine) -> None:
    probe, proof = bare("T4"), wanted(engine)
    stamps = {fingerprint(probe, proof, some) for some in ((), (EMBEDS,), (EMBEDS, WRITES))}
    assert len(stamps) == 3
    assert fingerprint(probe, proof, (EMBEDS,)) in stamps
