"""The page of a report: whole, readable without a screen, and nothing is fetched or run by it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from r1fleet.cli import main
from r1fleet.report_page import PageError, page

CHOSEN = {
    "tag": "14b",
    "context": 29696,
    "gpu_percent": 100.0,
    "expected_tokens_per_s": 20.6,
    "gpus": [0],
    "needed_mib": [13857],
    "download_bytes": 8988112209,
    "reason": "sits wholly on Tesla T4",
    "warnings": [],
}
HARDWARE = {
    "gpus": [{"index": 0, "name": "Tesla T4", "vram_mib": 15360}],
    "estimated": False,
    "ram_mib": 65536,
    "cores": 16,
    "disk_free_mib": 65325,
}


def row(host: str, **changed: Any) -> dict[str, Any]:
    plan = {"hardware": HARDWARE, "chosen": CHOSEN, "candidates": []}
    plan["candidates"] = [{"tag": "32b", "verdict": "too big", "reason": "needs 20883 MiB"}]
    return {
        "host": host,
        "gpus": ["Tesla T4"],
        "tag": "14b",
        "base_model": "Qwen2.5-14B",
        "quantisation": "q4_K_M",
        "context": 29696,
        "residency": 1.0,
        "tokens_per_s": 21.4,
        "verified_at": "2026-11-26T17:04:49+00:00",
        "digest": "sha256:6abecfb4d1f4846e",
        "changes": [],
        "warnings": [],
        "notes": [],
        "golden": [],
        "verdict": "as wanted",
        "reason": None,
        "plan": plan,
        **changed,
    }


def silent(host: str) -> dict[str, Any]:
    """A host that did not answer: next to nothing is known of it."""
    nothing = ("tag", "base_model", "quantisation", "context", "residency", "tokens_per_s")
    unknown = dict.fromkeys((*nothing, "verified_at", "digest"))
    plan = {"hardware": None, "chosen": None, "candidates": []}
    reason = "no SSH connection; try: ssh HOST true"
    return row(host, **unknown, gpus=[], plan=plan, verdict="unreachable", reason=reason)


def report(*rows: dict[str, Any], **changed: Any) -> dict[str, Any]:
    rollout = {"stopped": None, "fix": "", "at_once": [], "waves": []}
    counts = {"hosts": len(rows)}
    at = "2026-11-26T17:05:45+00:00"
    whole = {"schema": 1, "at": at, "interrupted": False, "dry_run": False, "counts": counts}
    return {**whole, "rollout": rollout, "hosts": {one["host"]: one for one in rows}, **changed}


class Reader(HTMLParser):
    """What a browser and a screen reader are given."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_every_host_is_there_with_plan_beside_reality() -> None:
    text = Reader(page(report(row("a"), silent("b")))).text
    for told in ("Tesla T4", "14b (Qwen2.5-14B, q4_K_M)", "about 20.6", "21.4", "6abecfb4d1f4"):
        assert told in text
    assert "13857 of 15360 MiB planned" in text
    assert "needs 20883 MiB" in text
    assert "no SSH connection" in text


def test_what_differs_from_the_plan_is_marked() -> None:
    whole = report(row("a", context=16384))
    marked = [attrs for tag, attrs in Reader(page(whole)).tags if tag == "td" and attrs]
    assert [attrs for attrs in marked if attrs.get("class") == "bad"] == [{"class": "bad"}]


def test_nothing_is_fetched_and_nothing_is_run() -> None:
    tags = Reader(page(report(row("a"), silent("b")))).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "form"}
    links = [attrs["href"] for tag, attrs in tags if "href" in attrs]
    assert links
    assert all(str(link).startswith("#") for link in links)
    assert not [
        name for _, attrs in tags for name in attrs if name.startswith("on") or name == "src"
    ]


def test_it_can_be_read_without_seeing_it() -> None:
    tags = Reader(page(report(row("a"), silent("b")))).tags
    assert ("html", {"lang": "en"}) in tags
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [str(attrs["aria-labelledby"]) for _, attrs in tags if "aria-labelledby" in attrs]
    jumps = [str(attrs["href"])[1:] for tag, attrs in tags if tag == "a"]
    assert {*named, *jumps} <= set(ids)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dry_run": True}, "a dry run: nothing was changed"),
        ({"interrupted": True}, "The run was interrupted"),
        (
            {"rollout": {"stopped": "a failed", "fix": "look at a", "waves": []}},
            "The rollout stopped: a failed; look at a",
        ),
    ],
)
def test_what_holds_for_the_whole_run_stands_first(changed: dict[str, Any], told: str) -> None:
    assert told in Reader(page(report(row("a"), **changed))).text.partition("The fleet")[0]


def test_own_prompts_stand_side_by_side() -> None:
    old = {"failed": None, "thinking_chars": 120, "tokens_per_s": 20.5}
    new = {"failed": "no 42 in it", "thinking_chars": 90, "tokens_per_s": 21.0}
    played = {"prompt": "sum", "verdict": "worse", "old": old, "new": new}
    text = Reader(page(report(row("a", golden=[played])))).text
    assert "sum: worse; former holds, 120 characters of thinking, 20.5 tokens/s" in text
    assert "new fails (no 42 in it)" in text


@given(st.text())
def test_what_hosts_say_stays_text(said: str) -> None:
    rows = (row("a", reason=said, warnings=[said, "<script>alert(1)</script>"]), silent(said))
    tags = [tag for tag, _ in Reader(page(report(*rows))).tags]
    assert "script" not in tags


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "this is no report of r1fleet"),
        ({"schema": 9, "hosts": {}}, "the report has schema 9, this r1fleet reads 1"),
        ({"schema": 1, "hosts": {}}, "the report is not whole"),
    ],
)
def test_another_document_is_refused(document: Any, told: str) -> None:
    with pytest.raises(PageError, match=told):
        page(document)


def test_the_command_writes_beside_the_report(tmp_path: Path) -> None:
    source = tmp_path / "fleet.json"
    source.write_text(json.dumps(report(row("a"))))
    done = CliRunner().invoke(main, ["report", str(source), "--title", "Lab & more"])
    assert (done.exit_code, done.output) == (0, f"written: {tmp_path / 'fleet.html'}\n")
    assert "<title>Lab &amp; more</title>" in (tmp_path / "fleet.html").read_text()


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    missing = CliRunner().invoke(main, ["report", str(tmp_path / "no.json")])
    assert missing.exit_code == 2
    assert "No such file or directory; run with --data report=" in missing.output
    (tmp_path / "x.json").write_text("{")
    assert CliRunner().invoke(main, ["report", str(tmp_path / "x.json")]).exit_code == 2
