"""Hosts are asked all at once, and what goes wrong on one is its own."""

from types import SimpleNamespace
from typing import Any

import gevent
import gevent.event
import pytest
from pyinfra.api.exceptions import ConnectError

from r1fleet.reach import Fleet, InventoryError, NoAnswer


def host(name: str, connect: Any = lambda **_: None, **data: Any) -> Any:
    settings = SimpleNamespace(dict=lambda: data, get=data.get)
    return SimpleNamespace(name=name, data=settings, groups=[], connect=connect, connected=True)


def fleet(*hosts: Any, said: str = "") -> Fleet:
    state: Any = None
    log: Any = SimpleNamespace(about=lambda _: said)
    return Fleet(state, list(hosts), list(hosts), log)


def test_answers_come_by_name_and_failures_are_their_hosts_own() -> None:
    def refuse(**_: Any) -> None:
        raise ConnectError("Could not connect (timed out)")

    def no_key(**_: Any) -> None:
        raise FileNotFoundError("no such key")

    def question(asked: Any) -> str:
        if asked.name == "odd":
            raise KeyError("x")
        if asked.name == "mute":
            raise NoAnswer("it said nothing")
        return f"{asked.name} is well"

    hosts = (host("a"), host("dead", refuse), host("odd"), host("mute"), host("keyless", no_key))
    found = fleet(*hosts).ask(question)
    assert found["a"].value == "a is well"
    assert (found["dead"].is_reached, found["dead"].reason) == (
        False,
        "Could not connect (timed out)",
    )
    assert (found["odd"].is_reached, found["odd"].reason) == (True, "KeyError: 'x'")
    assert found["mute"].reason == "it said nothing"
    assert found["keyless"].reason == "FileNotFoundError: no such key"
    assert [member.connected for member in hosts] == [True, True, False, False, True]


def test_a_host_that_hangs_after_it_was_reached_ends_by_the_limit() -> None:
    found = fleet(host("a")).ask(lambda _: gevent.sleep(60), limit_s=0.05)
    assert found["a"].is_reached
    assert found["a"].reason == "connected, but no answer within 0.05 s"


def test_what_pyinfra_said_of_a_host_is_the_better_reason() -> None:
    def question(_: Any) -> None:
        raise NoAnswer("it said nothing")

    found = fleet(host("a"), said="sudo: a password is required").ask(question)
    assert found["a"].reason == "sudo: a password is required"


def test_hosts_do_not_wait_for_each_other() -> None:
    met = gevent.event.Event()

    def question(asked: Any) -> bool:
        if asked.name == "a":
            return bool(met.wait(30))
        met.set()
        return True

    found = fleet(host("a"), host("b")).ask(question)
    assert [answer.value for answer in found.values()] == [True, True]


def test_wrong_settings_are_all_told_before_anything_is_asked() -> None:
    with pytest.raises(InventoryError) as told:
        fleet(host("a", tag="13b"), host("b", olama_host="x"))
    assert len(told.value.lines) == 2


def test_a_host_does_not_draw_on_the_terminal() -> None:
    assert "\x1b" not in str(NoAnswer("HTTP 500: \x1b[2Jowned"))
