"""Rows of the report for a host that went back, and the table of the team's prompts."""

import io

from rich.console import Console

from r1fleet.outcome import Outcome
from r1fleet.report import row_of
from r1fleet.report_table import print_golden


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
