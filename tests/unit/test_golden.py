"""golden.yaml: what it may ask for, and whether an answer holds."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet.golden import Answer, Check, compared, judge, parse, worse

GOOD = """
prompts:
- name: capital
  prompt: What is the capital of France?
  check: {pattern: '(?i)paris', thinking_chars_min: 5, thinking_chars_max: 20, seconds_max: 10}
- name: shape
  prompt: A person as JSON
  check: {json: {name: text, age: number, tags: list}}
"""


def test_a_good_file() -> None:
    first, second = parse(GOOD).prompts
    assert first.check.pattern == "(?i)paris"
    assert second.check.json_shape == {"name": "text", "age": "number", "tags": "list"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompts: [", "no YAML"),
        ("", "prompts|dictionary"),
        ("prompts: []", "prompts"),
        ("prompts: [{name: a, prompt: b, check: {}}]", "checks nothing"),
        ("prompts: [{name: a, prompt: b, check: {pattern: '('}}]", "no regular expression"),
        ("prompts: [{name: a, prompt: b, check: {patern: x}}]", "patern"),
        ("prompts: [{name: a, prompt: b, check: {json: {a: date}}}]", "json"),
        (GOOD.replace("shape", "capital"), "two prompts"),
    ],
)
def test_bad_files_say_what_and_where(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(text)


@given(st.text(max_size=80))
def test_any_text_is_a_file_or_a_fault(text: str) -> None:
    with suppress(ValueError):
        assert parse(text).prompts


def reply(content: str, thinking: str = "thinking") -> dict[str, Any]:
    message = {"content": content, "thinking": thinking}
    return {"message": message, "eval_count": 50, "eval_duration": 1_000_000_000}


def check(**content: Any) -> Check:
    return Check.model_validate(content)


@pytest.mark.parametrize(
    ("asked", "answer", "told"),
    [
        (check(pattern="a+b"), "xaab", None),
        (check(pattern="a+b"), "xb", "pattern"),
        (check(json={"n": "number"}), '```json\n{"n": 1.5}\n```', None),
        (check(json={"n": "number"}), '{"n": true}', "no number 'n'"),
        (check(json={"n": "boolean"}), '{"n": true}', None),
        (check(json={"n": "number"}), "[1]", "no JSON object"),
        (check(json={"n": "number"}), "well", "no JSON"),
        (check(thinking_chars_min=9), "x", "thought 8 characters, at least 9"),
        (check(thinking_chars_max=7), "x", "thought 8 characters, at most 7"),
        (check(seconds_max=1.0), "x", "took 2.0 s"),
    ],
)
def test_answers(asked: Check, answer: str, told: str | None) -> None:
    found = judge(asked, reply(answer), "200", 2.0)
    assert found.tokens_per_s == 50.0
    assert (found.failed is None) if told is None else told in (found.failed or "")


def test_no_answer_at_all() -> None:
    assert judge(check(pattern=""), {}, "000", 0.0).failed == "HTTP 000"
    assert judge(check(pattern=""), {"error": "gone"}, "500", 0.0).failed == "gone"


@given(st.dictionaries(st.sampled_from(["message", "eval_count", "error"]), st.none() | st.text()))
def test_any_reply_is_judged(found: dict[str, Any]) -> None:
    assert judge(check(json={"a": "text"}), found, "200", 0.1).failed


def side(*failed: str | None) -> dict[str, Answer]:
    names = ("capital", "shape")
    return {
        name: Answer(answer="", thinking_chars=0, tokens_per_s=1, seconds=1, failed=why)
        for name, why in zip(names, failed, strict=True)
    }


def test_only_what_passed_before_holds_a_model_back() -> None:
    golden = parse(GOOD)
    rows = compared(golden, side(None, "bad"), side(None, "worse"))
    assert [row["verdict"] for row in rows] == ["as before", "as before"]
    assert worse(rows) is None
    rows = compared(golden, side("bad", None), side(None, "no JSON"))
    assert [row["verdict"] for row in rows] == ["better", "worse"]
    assert worse(rows) == "'shape' passed before and fails now: no JSON"
    assert json.dumps(rows)
    assert worse(compared(golden, side(None, None), {}))
