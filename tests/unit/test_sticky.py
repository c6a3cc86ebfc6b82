"""A decision stands while nothing that it rests on has changed."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from r1fleet import catalog, decide, sticky
from r1fleet.hostfacts import ComputeProcess, Probe
from r1fleet.settings import Settings
from r1fleet.sizing import policy
from tests.unit.build import bare, working


def host(*cards: str, **changes: Any) -> Probe:
    return bare(*cards, driver=working(*cards), **changes)


def decided(probe: Probe, settings: Settings, **instead: Any) -> Probe:
    """The host after a run; `instead` is what an older r1fleet would have chosen."""
    sizing = decide.size(settings, probe).sizing
    if "tag" in instead:
        instead["model"] = catalog.find_tag(instead["tag"])
    sizing = replace(sizing, choice=replace(sizing.chosen, **instead))
    record = sticky.record(sizing, policy(settings))
    return replace(probe, state={"decision": json.loads(json.dumps(record))})


def used(probe: Probe, mib: int, *processes: ComputeProcess) -> Probe:
    cards = (replace(probe.driver.gpus[0], memory_used_mib=mib), *probe.driver.gpus[1:])
    return replace(probe, driver=replace(probe.driver, gpus=cards, processes=processes))


def test_memory_that_others_use_changes_nothing_and_is_one_note() -> None:
    settings = Settings()
    before = decide.size(settings, host("T4"))
    game = ComputeProcess(77, "/usr/bin/game", 4096)
    after = decide.size(settings, used(decided(host("T4"), settings), 4096, game))
    assert after.sizing.choice == before.sizing.choice
    (note,) = after.notes
    assert "4096 MiB" in note
    assert "/usr/bin/game (pid 77)" in note


def test_our_own_loaded_model_is_no_note() -> None:
    engine = ComputeProcess(5, "/opt/ollama/current/lib/ollama/llama-server", 14000)
    probe = used(decided(host("T4"), Settings()), 14001, engine)
    assert decide.size(Settings(), probe).notes == ()


def test_a_recorded_choice_is_kept_over_a_better_one_with_a_note() -> None:
    probe = decided(host("RTX 3090"), Settings(), tag="14b")
    found = decide.size(Settings(), probe)
    assert found.sizing.chosen.tag == "14b"
    assert found.sizing.chosen.model.size == "14b"
    assert found.kept_over is not None
    assert found.kept_over.startswith("32b")
    (note,) = found.notes
    assert "would now choose 32b" in note


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({}, Settings(context_min=8192)),
        ({}, Settings(vram_reserve_mib=512)),
        ({}, Settings(tag="7b")),
        ({"ram_mib": 131072}, Settings()),
        ({"driver": working("RTX 3090", "RTX 3090")}, Settings()),
        ({"driver": working("RTX 4090")}, Settings()),
    ],
)
def test_a_changed_input_makes_the_decision_anew(
    change: dict[str, Any], settings: Settings
) -> None:
    old = decided(host("RTX 3090"), Settings(), tag="1.5b", context=16384)
    assert decide.size(Settings(), old).sizing.chosen.tag == "1.5b"
    fresh = decide.size(settings, replace(old, **change))
    assert fresh.kept_over is None
    assert fresh.sizing.chosen.tag != "1.5b"


def test_memory_that_differs_a_little_from_boot_to_boot_is_the_same() -> None:
    old = decided(host("T4", ram_mib=65536 - 511), Settings(), context=16384)
    again = decide.size(Settings(), replace(old, ram_mib=65536 - 513))
    assert again.sizing.chosen.context == 16384


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@hypothesis_settings(deadline=None)
@given(st.data())
def test_a_damaged_record_is_no_record(data: st.DataObject) -> None:
    whole = decided(host("T4"), Settings()).state["decision"]
    part = data.draw(st.sampled_from(["choice", "inputs"]))
    key = data.draw(st.sampled_from(sorted(whole[part])))
    damaged = {**whole, part: {**whole[part], key: data.draw(JSON)}}
    for record in (damaged, {**whole, part: data.draw(JSON)}, data.draw(JSON)):
        found = decide.size(Settings(), host("T4", state={"decision": record}))
        assert found.sizing.chosen.tag
