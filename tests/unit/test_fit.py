"""`r1fleet fit`: hardware that is described, as people type it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from r1fleet import catalog, sizing_table
from r1fleet.catalog import by_name
from r1fleet.cli import main
from r1fleet.fit import described, fit
from r1fleet.settings import Settings

ROOT = Path(__file__).parents[2]


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = CliRunner().invoke(main, ["fit", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def fit_json(*words: str) -> dict[str, Any]:
    code, output, _ = run("--json", *words)
    assert code == 0
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("RTX 4090", "GeForce RTX 4090"),
        ("nvidia geforce rtx 4090", "GeForce RTX 4090"),
        ("RTX 4060Ti 16GB", "GeForce RTX 4060 Ti 16 GB"),
        ("rtx 4060", "GeForce RTX 4060"),
        ("a100 80gb", "A100 or A800 80 GB"),
        ("dgx spark", "GB10 (DGX Spark)"),
        ("t4", "Tesla T4"),
        ("apple m2", "Apple M2"),
    ],
)
def test_cards_go_by_the_names_people_use(typed: str, name: str) -> None:
    assert by_name.find(typed).name == name


def test_every_card_is_found_by_its_own_name() -> None:
    for card in catalog.gpus():
        assert by_name.find(card.name).name == card.name


@given(st.text(max_size=40))
def test_any_other_name_gives_a_line_that_names_others(text: str) -> None:
    with pytest.raises(by_name.UnknownGpu, match=r"nearest|name one of them"):
        by_name.find(f"{text} no such card")


def test_the_choice_is_one_field_and_every_tag_has_its_verdict() -> None:
    found = fit_json("--gpu", "RTX 4090", "--gpu", "RTX 3090", "--ram", "64", "--disk", "500")
    assert found["chosen"]["tag"] == "70b"
    assert found["chosen"]["placement"] == "gpu"
    assert [row["tag"] for row in found["tags"]] == [m.tag for m in reversed(catalog.models())]
    for row in found["tags"]:
        assert row["reason"]
        if row["verdict"] == "too big":
            assert row["largest_context"] is None
        else:
            assert row["largest_context"] >= found["context_min"]
            assert 0 <= row["gpu_percent"] <= 100


def test_what_does_not_fit_wholly_is_told_with_its_split() -> None:
    rows = {row["tag"]: row for row in fit_json("--gpu", "RTX 4060 Ti 8 GB")["tags"]}
    assert rows["7b"]["verdict"] == "fits"
    assert rows["32b"]["verdict"] == "offload"
    assert 0 < rows["32b"]["gpu_percent"] < 50
    assert "GB/s" in rows["32b"]["speed_basis"]


def test_the_reported_case_of_offload() -> None:
    words = ("--gpu", "RTX 4060 Ti 8 GB", "--ram", "64", "--cores", "14")
    policy = ("--data", "placement=offload")
    chosen = fit_json(*words, *policy, "--tag", "32b-qwen-distill-q8_0")["chosen"]
    assert 15 <= chosen["gpu_percent"] <= 25
    assert 1 <= chosen["expected_tokens_per_s"] <= 2.5
    code, _, line = run(*words, *policy, "--tag", "70b-llama-distill-q8_0")
    assert code == 2
    assert "host memory" in line


def test_a_mac_of_16_gb_holds_8b() -> None:
    assert fit_json("--gpu", "Apple M2", "--ram", "16")["chosen"]["tag"] == "8b"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpu", "RTX 4009"), "nearest: GeForce RTX 4090"),
        (("--gpu", "RTX 4060 Ti"), "GeForce RTX 4060 Ti 8 GB, GeForce RTX 4060 Ti 16 GB"),
        (("--gpu", "T4", "--ram", "-1"), "--ram is -1"),
        (("--gpu", "T4", "--disk", "nan"), "--disk is nan"),
        (("--gpu", "T4", "--tag", "13b"), "not a known tag"),
        (("--gpu", "T4", "--tag", "70b"), "leave tag out: 14b fits"),
        (("--gpu", "T4", "--context-min", "-5"), "context_min: is out of range"),
        (("--gpu", "T4", "--data", "contxt_min=4096"), "did you mean 'context_min'"),
        (("--gpu", "T4", "--context-min", "131072", "--parallel", "64"), "does not fit"),
        ((), "no GPU"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(words: tuple[str, ...], told: str) -> None:
    code, _, line = run(*words)
    assert code == 2
    assert told in line
    assert line.count("\n") == 1


@hypothesis_settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from([card.name for card in catalog.gpus()]), max_size=4))
def test_any_cards_together_have_a_verdict_for_each_tag(names: list[str]) -> None:
    found = fit(described(names, 64, None, 8), Settings())
    assert len(found.rows) == len(catalog.models())
    assert all(row.reason for row in found.rows)


def test_the_tables_of_the_document_are_those_of_the_code() -> None:
    text = (ROOT / sizing_table.DOCUMENT).read_text(encoding="utf-8")
    assert sizing_table.document(text) == text
