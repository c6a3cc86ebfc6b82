"""The team's prompts against an engine's answers on 127.0.0.1."""

from dataclasses import replace
from pathlib import Path

import pytest

from r1fleet import outcome
from r1fleet.golden import parse
from r1fleet.golden.play import Game, new, old
from tests.operations.fakehost import FakeHost
from tests.operations.test_verify_smoke import Engine, engine, wanted

__all__ = ["engine"]  # a fixture

GOLDEN = parse(
    "prompts:\n"
    '- {name: ready, prompt: "It\'s $HOME\\nand more", check: {pattern: READY}}\n'
    "- {name: long, prompt: x, check: {thinking_chars_min: 900}}\n"
)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path, tmp_path.name)


def test_both_sides_are_asked_the_same_and_compared(host: FakeHost, engine: Engine) -> None:
    game = Game(GOLDEN)
    proof = replace(wanted(engine), system="Be brief", options={"temperature": 0.5})
    assert host.play(old._inner(game, replace(proof, model="deepseek-r1:7b")))
    assert host.play(new._inner(game, proof))
    bodies = [body for _, body in engine.asked]
    assert [body["model"] for body in bodies] == ["deepseek-r1:7b"] * 2 + ["deepseek-r1:14b"] * 2
    assert bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "It's $HOME\nand more"},
    ]
    assert bodies[0]["options"] == {"seed": 1, "temperature": 0.5}
    assert bodies[0]["think"] is True
    rows = outcome.of(host.name).golden
    assert [row["verdict"] for row in rows] == ["as before", "as before"]
    assert rows[0]["new"]["tokens_per_s"] == 50.0
    assert len(host.scripts) == 2


def test_what_passed_before_and_fails_now_fails_the_host(host: FakeHost, engine: Engine) -> None:
    game = Game(GOLDEN)
    assert host.play(old._inner(game, wanted(engine)))
    code, body = engine.answers["/api/chat"]
    engine.answers["/api/chat"] = (code, body.replace("READY", "WRONG"))
    assert not host.play(new._inner(game, wanted(engine)))
    assert "'ready' passed before and fails now" in (outcome.of(host.name).failure or "")
    assert outcome.of(host.name).golden[0]["verdict"] == "worse"
