"""Who may reach the engine: what is refused before anything changes."""

from typing import Any

import pytest

from r1fleet.settings import Settings, SettingsError, read

OPEN = {"expose": "open", "expose_unauthenticated": "yes-i-know", "ollama_host": "0.0.0.0"}


def line(**data: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        read("h", data)
    (found,) = refused.value.lines
    return found.removeprefix("h: ")


def taken(**data: Any) -> Settings:
    return read("h", data)


@pytest.mark.parametrize("expose", ["local", "gateway"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7:80", "gpu1.example.org"])
def test_an_engine_that_others_reach_is_refused(expose: str, host: str) -> None:
    said = line(expose=expose, ollama_host=host)
    assert said.startswith("expose: does not go with ollama_host ")
    assert "use expose gateway" in said


def test_open_is_said_in_words() -> None:
    assert "expose_unauthenticated" in line(expose="open", ollama_host="0.0.0.0")
    for word in ("yes", "true", True, "YES-I-KNOW"):
        with pytest.raises(SettingsError):
            taken(**OPEN | {"expose_unauthenticated": word})
    assert taken(**OPEN).listens_beyond_loopback


def test_the_words_alone_open_nothing() -> None:
    assert taken(expose_unauthenticated="yes-i-know").expose == "local"
    said = line(expose_unauthenticated="yes-i-know", ollama_host="0.0.0.0")
    assert said.startswith("expose: does not go with ollama_host")


def test_any_origin_beside_an_open_engine_is_refused() -> None:
    assert "every web page" in line(**OPEN, ollama_origins="*")
    assert taken(**OPEN, ollama_origins="https://*.example.org")
    assert taken(expose="gateway", ollama_origins="*")


def test_open_on_loopback_is_a_contradiction() -> None:
    assert "set that to 0.0.0.0" in line(**OPEN | {"ollama_host": "127.0.0.1"})


def test_a_wrong_host_is_told_once() -> None:
    assert line(ollama_host="300.1.1.1").startswith("ollama_host: ")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"gateway_tls": "off"}, "read tokens and prompts"),
        ({"gateway_tls": "off", "gateway_listen": "10.0.0.1:80"}, "gateway_plain_http"),
        ({"gateway_tls": "files"}, "set gateway_certificate and gateway_key"),
        ({"gateway_tls": "files", "gateway_key": "/etc/x.key"}, "set gateway_certificate"),
        ({"gateway_tls": "acme"}, "set gateway_name"),
        ({"gateway_tls": "acme", "gateway_name": "10.0.0.1"}, "needs a public host name"),
        ({"gateway_tls": "acme", "gateway_name": "gpu1"}, "needs a public host name"),
        ({"gateway_name": "a b"}, "is not a host name"),
        ({"gateway_name": "x.example.org {"}, "is not a host name"),
        ({"gateway_certificate": "/etc/x y"}, "is not a plain path"),
        ({"gateway_listen": "https://0.0.0.0:1"}, "http only"),
        ({"gateway_listen": "0.0.0.0:70000"}, "port out of range"),
        ({"gateway_version": "2.8.0"}, "use 2.11.9 or later"),
        ({"gateway_version": "latest"}, "is not a release"),
        ({"gateway_sha512": "ab"}, "is not a SHA-512"),
        ({"gateway_url": "http://mirror.example.org/caddy"}, "set gateway_sha512"),
        ({"gateway_tokens": "r1f_secret"}, "use env:NAME, file:PATH or command:WORDS"),
        ({"gateway_tokens": "file:"}, "use env:NAME"),
    ],
)
def test_refusals(data: dict[str, Any], words: str) -> None:
    assert words in line(expose="gateway", **data)


def test_what_is_taken() -> None:
    assert taken(gateway_tls="off", gateway_listen="127.0.0.1:8080").gateway_port == 8080
    assert taken(gateway_tls="off", gateway_plain_http="yes-i-know")
    assert taken(gateway_tls="acme", gateway_name="gpu1.example.org")
    assert taken(gateway_tls="files", gateway_certificate="/etc/a.pem", gateway_key="/etc/a.key")
    assert taken(gateway_url="http://10.0.0.1/caddy", gateway_sha512="0" * 128)
    assert taken(gateway_name="fd00::7").gateway_name == "fd00::7"


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    assert "r1f_secret" not in line(gateway_tokens="r1f_secret")
