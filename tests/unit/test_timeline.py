"""A host's history as runs write it, and as anything at all that may stand in its place."""

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from r1fleet.timeline import Line, read
from r1fleet.why_text import print_timeline

ENTRY: dict[str, Any] = {
    "schema": 1,
    "at": "2026-11-24T10:00:00+00:00",
    "run": "0123abcd",
    "who": "ops@laptop",
    "commit": "f3fa4dd00000",
    "dirty": True,
    "from": {"driver": "570.1", "engine": "0.32.15", "model": "deepseek-r1:8b",
             "digest": "sha256:" + "a" * 64, "settings": "111111111111"},
    "to": {"driver": "570.1", "engine": "0.32.15", "model": "deepseek-r1:14b",
           "digest": "sha256:" + "b" * 64, "settings": "111111111111"},
    "changes": ["model deepseek-r1:14b", "Ollama restarted"],
    "verdict": "rolled back",
    "reason": "the smoke prompt failed",
    "tokens_per_s": 41.5,
}  # fmt: skip


def lines(*entries: Any) -> tuple[Line, ...]:
    texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    return read(["@@history", *texts])


def shown(*entries: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=80, record=True)
    print_timeline(console, lines(*entries))
    return console.export_text().splitlines()


def test_an_entry_says_when_who_what_and_why() -> None:
    assert shown(ENTRY) == [
        "2026-11-24T10:00:00+00:00  rolled back, 41.5 tokens/s  by ops@laptop,"
        " commit f3fa4dd00000 (dirty), run 0123abcd",
        "    model deepseek-r1:8b -> deepseek-r1:14b",
        "    digest aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "    reason: the smoke prompt failed",
        "    changed: model deepseek-r1:14b; Ollama restarted",
    ]


def test_the_newest_is_first_and_what_is_unknown_is_said() -> None:
    first = ENTRY | {"from": None, "commit": None, "dirty": False, "verdict": "changed"}
    first |= {"reason": None, "tokens_per_s": None, "at": "2026-11-23T10:00:00+00:00"}
    found = shown(first, ENTRY)
    assert found[0].startswith("2026-11-24")
    assert found[5] == (
        "2026-11-23T10:00:00+00:00  changed  by ops@laptop, no commit, run 0123abcd"
    )
    assert "    driver unknown -> 570.1" in found


def test_what_is_no_entry_is_shown_as_such_and_hides_nothing() -> None:
    found = shown('{"schema": 1, "at', ENTRY, "[1]", ENTRY | {"schema": 2}, {"schema": 1})
    assert found[0].startswith("line 5: it is not as it should be: at, run, who, verdict: ")
    assert found[1].startswith("line 4: it is of another schema, 2: ")
    assert found[2] == "line 3: it is no JSON object: [1]"
    assert found[-1] == 'line 1: it is damaged: {"schema": 1, "at'
    assert any("rolled back" in line for line in found)


def test_for_programs_an_entry_is_what_was_written() -> None:
    good, bad = lines(ENTRY | {"more": 1}, "x")
    assert good.data == ENTRY | {"more": 1}
    assert bad.data == {"line": 2, "trouble": "it is damaged", "text": "x"}


def test_no_history_is_empty() -> None:
    assert read(["@@history"]) == ()
    assert read([]) == ()


@given(st.lists(st.one_of(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ENTRY, "x"]), inner),
))))  # fmt: skip
def test_anything_is_shown(entries: list[Any]) -> None:
    shown(*entries)
    assert all(line.data is not None for line in lines(*entries))


@given(st.dictionaries(st.sampled_from(sorted(ENTRY)), st.none() | st.integers() | st.text()))
def test_an_entry_with_odd_fields_is_shown(fields: dict[str, Any]) -> None:
    assert shown(ENTRY | fields)
