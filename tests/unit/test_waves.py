"""Who goes when, and when a rollout stops."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import waves
from r1fleet.waves import Ending, Member, Wave, batch_size, plan, stop_reason


def member(name: str, *gpus: str, **changes: Any) -> Member:
    values = {"vram_mib": 100, "stand": "pending", "serves": True, "target": "new"}
    return Member(name, frozenset(gpus), **(values | changes))


def groups(found: waves.Plan) -> list[tuple[str, ...]]:
    return [wave.hosts for wave in found.waves]


MEMBERS = st.lists(
    st.builds(
        member,
        st.sampled_from([f"h{number}" for number in range(30)]),
        st.sampled_from(["T4", "H100", "A10"]),
        vram_mib=st.integers(0, 5),
        stand=st.sampled_from(["as wanted", "pending", "pending", "other", "away"]),
        serves=st.booleans(),
        target=st.sampled_from(["new", "other"]),
    ),
    unique_by=lambda one: one.name,
)
BATCH = st.one_of(st.integers(1, 9), st.integers(1, 100).map(lambda share: f"{share}%"))
NAMES = st.lists(st.sampled_from([f"h{number}" for number in range(30)]), min_size=1)
CANARY = st.one_of(st.integers(0, 3), NAMES.map(tuple))


@given(MEMBERS, CANARY, BATCH)
def test_every_host_has_one_place_and_only_a_change_makes_one_wait(
    members: list[Member], canary: int | tuple[str, ...], batch: int | str
) -> None:
    found = plan(members, canary, batch)
    placed = [*found.at_once, *(host for group in groups(found) for host in group)]
    assert sorted(placed) == sorted(one.name for one in members if one.stand != "away")
    named = () if isinstance(canary, int) else canary
    for one in members:
        waits = one.stand == "pending" and (one.serves or one.name in named)
        assert (found.wave_of(one.name) or 0) >= 1 if waits else not found.wave_of(one.name)
    assert all(group for group in groups(found))
    assert [wave.number for wave in found.waves] == list(range(1, len(found.waves) + 1))
    steps = [found.group(step) for step in range(found.steps)]
    assert sorted(host for step in steps for host in step) == sorted(placed)
    assert set(found.at_once) <= steps[0]


@given(MEMBERS, CANARY, BATCH)
def test_batches_keep_their_size(
    members: list[Member], canary: int | tuple[str, ...], batch: int | str
) -> None:
    found = plan(members, canary, batch)
    going = sum(len(group) for group in groups(found))
    batches = [wave for wave in found.waves if not wave.canary]
    assert all(len(wave.hosts) <= batch_size(batch, going) for wave in batches)
    assert all(len(wave.hosts) == batch_size(batch, going) for wave in batches[:-1])
    assert not any(wave.canary for wave in found.waves[1:])


@given(MEMBERS, BATCH)
def test_canaries_cover_each_gpu_model_that_is_not_proven_yet(
    members: list[Member], batch: int | str
) -> None:
    found = plan(members, 1, batch)
    going = [one for one in members if one.stand == "pending" and one.serves]
    if len(going) < 2:
        return
    first = [one for wave in found.waves if wave.canary for one in going if one.name in wave.hosts]
    for one in going:
        proven = all(
            any(
                other.stand == "as wanted" and other.kinds == one.kinds and other.target == target
                for other in members
            )
            for target in {other.target for other in going if other.kinds == one.kinds}
        )
        assert proven != any(one.kinds == canary.kinds for canary in first)


@given(MEMBERS, CANARY, BATCH, st.randoms(use_true_random=False))
def test_the_canaries_are_the_same_in_any_order_of_the_inventory(
    members: list[Member], canary: int | tuple[str, ...], batch: int | str, random: Any
) -> None:
    mixed = random.sample(members, len(members))
    firsts = [
        {host for wave in found.waves if wave.canary for host in wave.hosts}
        for found in (plan(members, canary, batch), plan(mixed, canary, batch))
    ]
    assert firsts[0] == firsts[1]


def test_one_host_of_each_model_goes_first_the_smallest() -> None:
    members = [
        member("big", "T4", vram_mib=200),
        member("small", "T4"),
        member("h100", "H100"),
        member("cpu"),
        member("more", "T4"),
    ]
    found = plan(members, 1, "25%")
    assert groups(found) == [("cpu", "h100", "more"), ("big", "small")]
    assert found.waves[0].canary


def test_a_host_with_two_models_is_canary_for_both() -> None:
    members = [member("a", "T4"), member("b", "H100"), member("both", "T4", "H100")]
    assert groups(plan(members, 1, 2)) == [("both",), ("a", "b")]


def test_a_batch_does_not_take_all_hosts_of_a_model() -> None:
    members = [member(f"t4-{n}", "T4") for n in range(3)]
    members += [member(f"h100-{n}", "H100") for n in range(3)]
    assert groups(plan(members, 0, 2)) == [
        ("t4-0", "h100-0"),
        ("t4-1", "h100-1"),
        ("t4-2", "h100-2"),
    ]


def test_one_host_alone_needs_no_canary() -> None:
    members = [member("a", "T4"), *(member(f"b{n}", "T4", stand="as wanted") for n in range(3))]
    found = plan(members, ("b0",), 1)
    assert groups(found) == [("a",)]
    assert found.steps == 1
    assert found.blocked is None


def test_hosts_that_serve_nobody_start_at_once_unless_they_are_named() -> None:
    members = [member(f"h{n}", "T4", serves=False) for n in range(3)]
    assert plan(members, 1, 1).at_once == ("h0", "h1", "h2")
    members += [member("x", "T4"), member("y", "T4")]
    found = plan(members, ("h1",), 1)
    assert found.at_once == ("h0", "h2")
    assert groups(found) == [("h1",), ("x",), ("y",)]


def test_an_interrupted_rollout_goes_on_with_batches() -> None:
    done = member("done", "T4", stand="as wanted")
    rest = [member(f"h{n}", "T4") for n in range(3)]
    found = plan([done, *rest], 1, 2)
    assert groups(found) == [("h0", "h1"), ("h2",)]
    assert not found.waves[0].canary
    assert found.wave_of("done") == 0
    named = plan([done, *rest], ("done",), 2)
    assert groups(named) == [("h0", "h1"), ("h2",)]
    assert named.blocked is None
    other = member("done", "T4", stand="as wanted", target="old")  # proves another thing
    assert plan([other, *rest], 1, 2).waves[0].canary


@pytest.mark.parametrize("stand", ["away", "other"])
def test_without_its_named_canaries_no_wave_begins(stand: Any) -> None:
    members = [member("a", "T4"), member("b", "T4"), member("c", "T4", stand=stand)]
    blocked = plan(members, ("c",), 1).blocked
    assert blocked is not None
    assert "c" in blocked
    assert plan(members, ("c", "a"), 1).blocked is None


def test_names_out_of_this_run_leave_the_choice_to_the_planner() -> None:
    found = plan([member("a", "T4"), member("b", "T4")], ("elsewhere",), 1)
    assert groups(found) == [("a",), ("b",)]
    assert found.waves[0].canary


WAVES = [Wave(1, ("a", "b"), canary=True), Wave(2, ("c",))]


def reason(failed: int = 0, unreachable: int = 0, **endings: Ending) -> str | None:
    return stop_reason(WAVES, endings, max_failed=failed, max_unreachable=unreachable)


def test_a_rollout_goes_on_when_all_were_proven() -> None:
    assert reason(a="verified", b="verified", c="verified") is None


def test_each_doubt_stops_it_by_name() -> None:
    assert "b failed" in str(reason(a="verified", b="failed", c="verified"))
    assert "connection to b broke" in str(reason(a="verified", b="lost", c="verified"))
    assert "b failed" in str(reason(a="verified", c="verified"))  # nothing is known of it


def test_limits_are_counted_apart() -> None:
    assert reason(failed=1, a="verified", b="failed", c="verified") is None
    assert reason(unreachable=1, a="verified", b="lost", c="verified") is None
    assert reason(failed=1, a="verified", b="lost", c="failed") is not None
    assert reason(unreachable=1, a="verified", b="lost", c="failed") is not None
    assert reason(failed=1, a="verified", b="failed", c="failed") is not None  # over all waves


def test_another_operators_host_is_no_doubt_but_no_proof_either() -> None:
    assert reason(a="verified", b="held", c="verified") is None
    assert "no canary" in str(reason(a="held", b="held", c="verified"))


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from(get_args(Ending))))
def test_no_limit_lets_a_rollout_go_on_without_any_proof(endings: dict[str, Ending]) -> None:
    told = stop_reason(WAVES, endings, max_failed=99, max_unreachable=99)
    assert (told is None) == ("verified" in (endings.get("a"), endings.get("b")))
