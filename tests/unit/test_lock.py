"""The lock file: read, refused, merged, applied."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import lock, settings
from r1fleet.lock import Locked, LockError

A, B = ("sha256:" + letter * 64 for letter in "ab")
NAME = "deepseek-r1:14b"


def entry(digest: str, at: str = "2026-11-24T21:00:00+00:00") -> Locked:
    return Locked(digest=digest, source="https://registry", at=at)


names = st.from_regex(r"\A[a-z0-9]{1,9}:[A-Za-z0-9._-]{1,9}\Z")
digests = st.sampled_from([A, B])
entries = st.builds(Locked, digest=digests, source=st.text(max_size=20), at=st.text(max_size=20))


@given(st.dictionaries(names, entries, max_size=5))
def test_what_is_written_is_read_back_sorted(models: dict[str, Locked]) -> None:
    text = lock.text(models)
    assert lock.parse(text) == models
    assert list(lock.parse(text)) == sorted(models)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file"),
        ("a: [", "not YAML"),
        ("schema: 2\nmodels: {}\n", "take a newer one"),
        ("schema: 1\n", "models"),
        (f"schema: 1\nmodels: {{'x': {{digest: '{A}', source: s, at: t}}}}\n", "names no model"),
        ("schema: 1\nmodels: {'m:1': {digest: abc, source: s, at: t}}\n", "digest"),
        (f"schema: 1\nmodels: {{'m:1': {{digest: '{A}', source: s, at: t, x: 1}}}}\n", "x"),
    ],
)
def test_what_is_no_lock_is_refused_with_the_place(text: str, why: str) -> None:
    with pytest.raises(LockError, match=why):
        lock.parse(text)


def test_the_file_is_named_and_may_be_absent(tmp_path: Path) -> None:
    assert lock.read(tmp_path / "none.yaml") == {}
    path = tmp_path / "models.lock.yaml"
    path.write_text("schema: 9\nmodels: {}\n")
    with pytest.raises(LockError, match=r"models\.lock\.yaml: .*newer"):
        lock.read(path)


def test_what_is_as_it_was_keeps_its_date() -> None:
    before = {NAME: entry(A), "m:1": entry(B)}
    found = {NAME: entry(A, at="later")}
    assert lock.merged(before, found, keep_others=False) == {NAME: before[NAME]}
    assert lock.merged(before, found, keep_others=True) == before
    moved = lock.merged(before, {NAME: entry(B, at="later")}, keep_others=True)
    assert moved[NAME].at == "later"
    assert list(lock.differences(before, moved)) == [f"{NAME}: {B}, was {A}"]
    assert list(lock.differences(before, {})) == [
        f"{NAME}: no longer wanted, taken out",
        "m:1: no longer wanted, taken out",
    ]


def test_the_lock_pins_and_settings_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock.FILE.write_text(lock.text({NAME: entry(A), "m:1": entry(A)}))
    own = {"h": settings.read("h", {"model_digests": {NAME: B}})}
    assert settings.locked(own)["h"].model_digests == {NAME: B, "m:1": A}
