"""Former tags: what stays, what goes, and that it is never anybody else's."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from r1fleet import tags
from r1fleet.model.manifest import manifest_path

A, B, C = ("sha256:" + char * 64 for char in "abc")


def state(name: str, digest: str, *former: dict[str, Any], brought: bool = True) -> dict[str, Any]:
    entry = {"digest": digest, "layers": [], "brought": brought}
    return {"models": {name: entry}, "verified": {"digest": digest}, "former": list(former)}


def row(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": digest, "layers": [], "brought": True}


def there(**names: str) -> dict[str, str]:
    return {
        manifest_path(f"m:{tag}"): digest.removeprefix("sha256:") for tag, digest in names.items()
    }


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [found["name"] for found in rows]


def test_what_was_served_comes_first_and_what_is_gone_is_left_out() -> None:
    found = state("m:x", A, row("m:y", B), row("m:gone", C))
    assert names(tags.former(found, "m:z", C, there(x=A, y=B, z=C))) == ["m:x", "m:y"]
    assert names(tags.former(found, "m:x", A, there(x=A, y=B))) == ["m:y"]  # nothing has changed
    assert names(tags.former(found, "m:y", B, there(x=A, y=B))) == ["m:x"]  # back again


def test_a_name_that_moved_leaves_its_digest_under_a_name_of_its_own() -> None:
    side = tags.side_name("m:x", A)
    assert side == "m:x-" + "a" * 12
    before = there(x=B) | {manifest_path(side): A.removeprefix("sha256:")}
    assert names(tags.former(state("m:x", A), "m:x", B, before)) == [side]


def test_strangers_are_no_former_tags() -> None:
    assert tags.former(state("m:x", A, brought=False), "m:z", C, there(x=A, z=C)) == []
    pulled_anew = there(x=B, z=C)
    assert tags.former(state("m:x", A), "m:z", C, pulled_anew) == []


def test_a_model_that_is_wanted_beside_r1_now_is_no_former_tag() -> None:
    found = state("m:x", A, row("m:y", B))
    assert names(tags.former(found, "m:z", C, there(x=A, y=B, z=C), ["m:y"])) == ["m:x"]
    assert names(tags.former(found, "m:z", C, there(x=A, y=B, z=C), ["m:x"])) == ["m:y"]


def test_what_this_run_or_a_former_one_fetched_was_brought() -> None:
    found = state("m:x", A, row("m:y", B))
    assert tags.was_brought(found, [], "m:x", A)
    assert tags.was_brought(found, [], "m:y", B)
    assert not tags.was_brought(found, [], "m:y", A)
    assert tags.was_brought({}, [row("m:z", C)], "m:z", C)
    assert not tags.was_brought(state("m:x", A, brought=False), [], "m:x", A)


def test_after_a_way_back_what_came_since_is_the_oldest() -> None:
    then, now = state("m:x", A, row("m:y", B)), state("m:z", C, row("m:x", A))
    rows = tags.with_left_over(then, now, [], there(x=A, y=B, z=C))
    assert names(rows) == ["m:y", "m:z"]
    rows = tags.with_left_over(then, then, [row("m:z", C)], there(x=A, y=B, z=C))
    assert names(rows) == ["m:y", "m:z"]


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(["verified", "former", "models"]), JSON))
def test_a_damaged_record_counts_as_none(found: dict[str, Any]) -> None:
    assert tags.former(found, "m:x", A, there(x=A)) == []
