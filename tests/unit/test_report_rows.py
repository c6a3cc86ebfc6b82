"""Rows of the report for a host that went back, and the table of the team's prompts."""

import io

import pytest
from rich.console import Console

from r1fleet import decide
from r1fleet.outcome import Outcome
from r1fleet.plan_host import host_plan
from r1fleet.report import row_of
from r1fleet.report_table import print_golden, print_report
from r1fleet.settings import Settings
from tests.unit.build import bare
from tests.unit.served import served


def test_a_host_that_went_back_says_so_with_the_reason() -> None:
    found = Outcome(failure="engine: it does not start; rolled back to x", rolled_back=True)
    row = row_of("h", found, True, True, True)
    assert row["verdict"] == "rolled back"
    found.serves = "deepseek-r1:14b"
    served = row_of("h", found, True, True, True)
    assert (served["tag"], served["quantisation"]) == ("14b", "q4_K_M")
    assert row["reason"] == found.failure
    assert row_of("h", Outcome(failure="x"), True, True, True)["verdict"] == "failed"
    by_hand = row_of("h", Outcome(rolled_back=True, done=True), True, False, True)
    assert (by_hand["verdict"], by_hand["reason"]) == ("rolled back", None)


def test_a_host_that_was_left_alone_shows_what_it_serves() -> None:
    probe = served()
    settings = Settings(tag="14b-qwen-distill-q4_K_M")
    found = Outcome(probe=probe, sizing=decide.size(settings, probe).sizing, untouched="stopped")
    row = row_of("h", found, True, False, True)
    assert (row["verdict"], row["tag"], row["tokens_per_s"]) == ("untouched", "14b", 42.0)
    assert row["context"] == found.probe.loaded[0].context
    found.probe = bare("T4")
    assert row_of("h", found, True, False, True)["tag"] == "14b-qwen-distill-q4_K_M"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_verdict_and_wave_are_whole_at_any_width(width: int) -> None:
    probe = served()
    found = Outcome(probe=probe, sizing=decide.size(Settings(), probe).sizing, rolled_back=True)
    found.changes = ["model deepseek-r1:14b-qwen-distill-q4_K_M", "/etc/a", "/etc/b"]
    found.failure = "it broke"
    rows = [row_of(f"gpu{wave}", found, True, True, True) for wave in (1, 2, 3)]
    groups = [{"wave": wave, "canary": wave == 1, "hosts": [f"gpu{wave}"]} for wave in (1, 2, 3)]
    rollout = {"stopped": "stopped: it broke", "fix": "do it", "at_once": [], "waves": groups}
    for wave, row in enumerate(rows, 1):
        row["wave"] = wave
    text = io.StringIO()
    print_report(Console(file=text, width=width), rows, rollout, dry=False, settings={})
    lines = text.getvalue().splitlines()
    for name, wave in (("gpu1", "canary"), ("gpu2", "2"), ("gpu3", "3")):
        told = [line.replace("\u2502", " ").split() for line in lines]
        (words,) = [line for line in told if line[:1] == [name]]
        assert words[-3:] == [wave, "rolled", "back"]
    assert any("2 files" in line for line in lines)
    assert "stopped: it broke; do it" in lines


def test_a_dry_runs_table_counts_the_steps() -> None:
    probe = served()
    found = Outcome(probe=probe, sizing=decide.size(Settings(), probe).sizing)
    found.pending = ["engine: restarts Ollama", "    systemctl restart ollama", "verify: asks"]
    row = row_of("h", found, True, False, False) | {"plan": host_plan(found, Settings())}
    text = io.StringIO()
    rollout = {"stopped": None, "fix": "", "at_once": ["h"], "waves": []}
    print_report(Console(file=text, width=160), [row], rollout, dry=True, settings={})
    assert "2 steps" in text.getvalue()
    assert "h: would do:     systemctl restart ollama" in text.getvalue()


def test_both_sides_of_a_prompt_stand_side_by_side() -> None:
    side = {"failed": None, "thinking_chars": 12, "tokens_per_s": 50.0}
    played = {
        "prompt": "json [x]",
        "verdict": "worse",
        "old": side,
        "new": {**side, "failed": "the answer is no JSON", "tokens_per_s": 40.5},
    }
    text = io.StringIO()
    console = Console(file=text, width=160)
    print_golden(console, [{"host": "h", "golden": [played]}])
    assert "json [x]" in text.getvalue()
    assert "yes | no" in text.getvalue()
    assert "50.0 | 40.5" in text.getvalue()
    assert "the answer is no JSON" in text.getvalue()
    empty = io.StringIO()
    print_golden(Console(file=empty), [{"host": "h", "golden": []}])
    assert empty.getvalue() == ""
