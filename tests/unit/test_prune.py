"""What `prune: all` takes away, and what it never does."""

from hypothesis import given
from hypothesis import strategies as st

from r1fleet.hostfacts import ModelStore
from r1fleet.model.prune import unwanted

BASE = "registry.ollama.ai/library"
WANTED = f"{BASE}/deepseek-r1/14b"


def gone(*paths: str, state: dict[str, object] | None = None) -> tuple[str, ...]:
    store = ModelStore(manifests=dict.fromkeys(paths, "a" * 64))
    return unwanted(store, state or {}, "deepseek-r1", [WANTED])


def test_all_that_nobody_wants_goes_by_the_engines_own_names() -> None:
    assert gone(
        WANTED,
        f"{BASE}/llama3/8b",
        "registry.ollama.ai/me/own/latest",
        "mirror:5000/library/deepseek-r1/14b",
    ) == ("mirror:5000/library/deepseek-r1:14b", "llama3:8b", "me/own:latest")


def test_the_stable_name_stays_and_so_does_what_the_last_run_delivered() -> None:
    alias = (f"{BASE}/deepseek-r1/fleet", f"{BASE}/deepseek-r1/fleet-32b")
    assert gone(WANTED, *alias) == ()
    former = {"models": {"deepseek-r1:7b": {}}}
    assert gone(WANTED, f"{BASE}/deepseek-r1/7b", state=former) == ()
    assert gone(WANTED, f"{BASE}/deepseek-r1/7b") == ("deepseek-r1:7b",)


def test_what_is_no_model_of_the_engine_is_let_alone() -> None:
    assert gone(f"{BASE}/x", f"{BASE}/a/b/c", f"{BASE}/a b/c", f"{BASE}/x/1'; reboot") == ()


@given(st.lists(st.from_regex(r"\A[a-z]{1,4}(/[a-z0-9:]{1,5}){1,4}\Z"), max_size=6))
def test_what_is_wanted_never_goes(paths: list[str]) -> None:
    assert "deepseek-r1:14b" not in gone(WANTED, *paths)
