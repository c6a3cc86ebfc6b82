"""Snapshots for the way back: what they say, and which one is meant."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import paths
from r1fleet.alias.wanted import digest_of
from r1fleet.model.manifest import manifest_path, parse
from r1fleet.rollback.served import Served, find, former, from_json, name_of, served, to_json
from r1fleet.verify.judge import SmokeWanted
from tests.unit.build import bare
from tests.unit.test_alias import MANIFEST

PROOF = SmokeWanted(
    base_url="http://127.0.0.1:11434",
    model="deepseek-r1:14b",
    digest=digest_of(MANIFEST),
    placement="gpu",
    context=16384,
    keep_alive="-1",
    prompt="say READY",
    expect="READY",
    options={"temperature": 0.5},
    same_weights=("ab",),
)
NAMES = ("20261122T100000Z-aaa", "20261123T100000Z-bbb", "20261124T100000Z-ccc")


def one(**changes: Any) -> Served:
    path = manifest_path("deepseek-r1:14b")
    probe = bare("T4", engine_current="0.32.15-x", files={paths.ENGINE_ENV: "e", "/other": "o"})
    store = replace(probe.models, manifests={path: digest_of(MANIFEST).removeprefix("sha256:")})
    found = served(
        replace(probe, models=store),
        PROOF,
        (),
        parse(MANIFEST),
        ("deepseek-r1:fleet",),
        ("s",),
        "/m",
        {"schema": 1},
    )
    return replace(found, **changes)


def test_it_comes_back_as_it_was_kept() -> None:
    kept = from_json(to_json(one()))
    assert kept == one()
    assert kept.smoke == replace(PROOF, same_weights=())
    assert kept.files == {paths.ENGINE_ENV: "e"}
    assert kept.weights not in kept.small_blobs
    assert "s" in kept.small_blobs


def test_how_it_was_proven_makes_no_other_state() -> None:
    assert one(proof={**asdict(PROOF), "prompt": "x"}, state={}).id == one().id
    assert one(engine="0.33.0-y").id != one().id
    assert one(manifests={}).id != one().id


def test_a_newer_schema_or_a_damaged_file_is_refused_in_words() -> None:
    content = json.loads(to_json(one()))
    with pytest.raises(ValueError, match="schema 2"):
        from_json(json.dumps({**content, "schema": 2}))
    del content["engine"]
    with pytest.raises(ValueError, match="damaged"):
        from_json(json.dumps(content))


@given(st.text(max_size=60))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  json's own is as good
        from_json(text)


def test_the_former_one_is_the_last_before_what_is_served() -> None:
    assert former(NAMES, "ccc", None) == NAMES[1]
    assert former(NAMES, "bbb", None) == NAMES[0]
    assert former(NAMES, "aaa", None) is None
    assert former(NAMES, None, None) == NAMES[2]  # what is served now was never proven
    assert former((), "aaa", None) is None


def test_to_a_date_is_the_last_one_until_then() -> None:
    assert former(NAMES, "ccc", "2026-11-23T23:59:59+00:00") == NAMES[1]
    assert former(NAMES, "ccc", "2026-11-23T10:00:00+01:00") == NAMES[0]
    assert former(NAMES, "ccc", "2026-11-21T00:00:00+00:00") is None


def test_names_sort_by_time() -> None:
    name = name_of(one(), datetime(2026, 11, 24, 21, 0, tzinfo=UTC))
    assert name == f"20261124T210000Z-{one().id}"
    assert find([name, *NAMES], one().id) == name
    assert find(NAMES, None) is None
