"""Where a lock's digests come from: a registry on 127.0.0.1, or the report of a host."""

from collections.abc import Iterator
from typing import Any

import pytest

from r1fleet import lock_find
from r1fleet.lock_find import FindError
from r1fleet.model.manifest import parse
from tests.unit.registry import Registry, serve

NAME = "deepseek-r1:14b"
LOGIN = "Basic bWU6c2VjcmV0"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as running:
        yield running


def row(url: str, **installed: str) -> dict[str, Any]:
    return {"plan": {"models": {NAME: {"registry_url": url}}, "installed": installed}}


def test_what_looked_at_hosts_want() -> None:
    rows = {"a": row("https://r"), "b": {"plan": None}, "c": row("https://r")}
    assert lock_find.wanted(rows) == {NAME: "https://r"}
    with pytest.raises(FindError, match="is wanted from https://r and from https://s"):
        lock_find.wanted({**rows, "d": row("https://s")})
    with pytest.raises(FindError, match="no host that could be looked at"):
        lock_find.wanted({"b": {"plan": None}})


def test_hosts_that_could_not_be_looked_at_are_named() -> None:
    verdicts = ("as wanted", "unreachable", "held", "maintenance", "refused")
    rows = {f"h{at}": {"verdict": verdict, "plan": None} for at, verdict in enumerate(verdicts)}
    rows["looked-at"] = {"verdict": "refused", **row("https://r")}
    assert lock_find.unseen(rows) == ["h2 (held)", "h3 (maintenance)", "h4 (refused)"]


@pytest.mark.parametrize("bearer", [False, True])
def test_a_registry_is_asked_with_the_login(registry: Registry, bearer: bool) -> None:
    registry.login, registry.gives_tokens = LOGIN, bearer
    found = lock_find.of_registry({NAME: registry.url}, None, LOGIN, "now")
    assert found[NAME].digest == parse(registry.manifest).digest
    assert found[NAME].source == registry.url
    with pytest.raises(FindError, match="answered 401; check --login-file") as caught:
        lock_find.of_registry({NAME: registry.url}, None, None, "now")
    assert "c2VjcmV0" not in str(caught.value)


def test_a_mirror_is_asked_in_its_place(registry: Registry) -> None:
    found = lock_find.of_registry({NAME: "http://127.0.0.1:9"}, f"{registry.url}/", None, "now")
    assert found[NAME].source == registry.url


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": 404}, "answered 404; check the tag"),
        ({"manifest": b"<html>"}, "served no manifest"),
    ],
)
def test_what_a_registry_cannot_say(registry: Registry, changes: dict[str, Any], why: str) -> None:
    for key, value in changes.items():
        setattr(registry, key, value)
    with pytest.raises(FindError, match=why):
        lock_find.of_registry({NAME: registry.url}, None, None, "now")


def test_no_registry_at_all() -> None:
    with pytest.raises(FindError, match="--from-host a host"):
        lock_find.of_registry({NAME: "http://127.0.0.1:9"}, None, None, "now")


def test_a_host_that_has_them() -> None:
    digest = "sha256:" + "a" * 64
    rows = {"a": row("https://r", **{NAME: digest}), "b": row("https://r")}
    found = lock_find.of_host(rows, "a", {NAME: "https://r"}, "now")
    assert (found[NAME].digest, found[NAME].source) == (digest, "host a")
    with pytest.raises(FindError, match=f"b has no {NAME}"):
        lock_find.of_host(rows, "b", {NAME: "https://r"}, "now")
    with pytest.raises(FindError, match="c is not among the hosts; they are a, b"):
        lock_find.of_host(rows, "c", {NAME: "https://r"}, "now")
