"""What the end of a run says about using the fleet."""

from typing import Any

from r1fleet.settings import Settings
from r1fleet.usage import lines, use_of

SHARED = Settings(expose="gateway")
BALANCER = Settings(serve=False)


def row(host: str, **changes: Any) -> dict[str, Any]:
    found = {"host": host, "verdict": "as wanted", "tag": "14b", "expose": "local"}
    return {**found, "url": f"https://{host}:11443", **changes}


def text(rows: list[dict[str, Any]], settings: dict[str, Settings]) -> str:
    use = use_of(rows, settings)
    return "\n".join(lines(use, "prod.py")) if use else ""


def test_nothing_where_no_host_serves() -> None:
    assert text([row("a", verdict="failed"), row("b", tag=None)], {}) == ""


def test_a_host_of_its_own_is_reached_by_a_tunnel_and_needs_no_token() -> None:
    said = text([row("a", url="http://127.0.0.1:11434")], {"a": Settings()})
    assert "r1fleet tunnel prod.py a" in said
    assert "TOKEN" not in said
    assert "root.crt" not in said
    assert "deepseek-r1:fleet" in said


def test_without_an_alias_the_tag_is_the_model() -> None:
    assert "deepseek-r1:14b" in text([row("a")], {"a": Settings(alias=None)})


def test_a_gateway_takes_a_token_and_shows_its_own_ca() -> None:
    said = text([row("a", expose="gateway")], {"a": SHARED})
    assert "tunnel" not in said
    assert said.count("Bearer") == 2
    assert said.count("--cacert root.crt") == 1


def test_with_a_certificate_that_all_know_no_ca_is_named() -> None:
    shared = Settings(expose="gateway", gateway_tls="acme", gateway_name="a.example.org")
    assert "root.crt" not in text([row("a", expose="gateway")], {"a": shared})


def test_the_fleets_one_address_comes_before_those_of_hosts() -> None:
    rows = [row("a", expose="gateway"), row("front", tag=None, expose="gateway")]
    said = text(rows, {"a": SHARED, "front": BALANCER})
    assert "https://front:11443/v1" in said
    assert "https://a:11443" not in said


def test_a_fleet_gateway_with_nobody_behind_is_not_named() -> None:
    rows = [row("a", url="http://127.0.0.1:11434"), row("front", tag=None, expose="gateway")]
    assert "front" not in text(rows, {"a": Settings(), "front": BALANCER})
