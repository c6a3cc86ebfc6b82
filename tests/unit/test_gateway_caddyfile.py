"""What the gateway lets through, by the expressions that its Caddyfile has."""

import re
from typing import Any

import pytest

from r1fleet.gateway import caddyfile as made
from r1fleet.gateway import wanted
from r1fleet.gateway.pool import pool_id
from r1fleet.gateway.tokens import Store, Token
from r1fleet.settings import Settings

SECRET = f"r1f_{'a' * 43}"
STORE = Store((Token("alice", "use", SECRET),), "k" * 43)


def text(**settings: Any) -> str:
    return made.caddyfile(Settings(expose="gateway", **settings), "10.0.0.7")


def routes(matcher: str) -> re.Pattern[str]:
    """The expression of a matcher, as it stands in the file."""
    found = re.search(rf"@{matcher} .*?vars_regexp r1_asked `(.*?)`", text(), re.DOTALL)
    assert found
    return re.compile(found[1])


USE, ADMIN, BLOBS = (routes(name) for name in ("use", "admin", "blobs"))
DIGEST = "0" * 64


@pytest.mark.parametrize(
    "line",
    [
        *("GET /", "HEAD /", "GET /api/tags", "HEAD /api/version", "GET /api/ps"),
        *("POST /api/chat", "POST /api/generate", "POST /api/embed", "POST /api/embeddings"),
        *("POST /api/show", "GET /v1/models", "GET /v1/models/deepseek-r1:14b"),
        *("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings"),
        *("POST /v1/messages", "POST /v1/messages?beta=true", "POST /v1/responses"),
    ],
)
def test_what_use_may(line: str) -> None:
    assert USE.search(line)
    assert not ADMIN.search(line)
    assert not BLOBS.search(line)


@pytest.mark.parametrize(
    "line",
    [
        *("POST /api/pull", "POST /api/create", "POST /api/copy", "POST /api/push"),
        "DELETE /api/delete",
    ],
)
def test_what_admin_may_besides(line: str) -> None:
    assert ADMIN.search(line)
    assert not USE.search(line)


def test_blobs() -> None:
    assert BLOBS.search(f"POST /api/blobs/sha256:{DIGEST}")
    assert BLOBS.search(f"HEAD /api/blobs/sha256-{DIGEST}")
    assert not BLOBS.search(f"GET /api/blobs/sha256:{DIGEST}")
    assert not BLOBS.search(f"POST /api/blobs/sha256:{DIGEST}/../../pull")
    assert not BLOBS.search("POST /api/blobs/sha256:../../pull")


@pytest.mark.parametrize(
    "line",
    [
        *("POST /api/tags", "GET /api/chat", "PUT /api/chat", "GET /api/pull", "POST /"),
        *("GET //", "GET //api/tags", "GET /api//tags", "GET /api/tags/", "GET /api/tags."),
        *("GET /API/tags", "get /api/tags", "GET /api%2ftags", "GET /api/%74ags"),
        *("GET /api/../api/tags", "GET /./api/tags", "GET /api/tags;x", "GET /api/tags#x"),
        *("GET http://h/api/tags", "CONNECT h:80", "OPTIONS *", "GET api/tags", " GET /api/tags"),
        *("GET /v1/models/", "GET /v1/models/a/b", "GET /v1/models/..", "GET /v1/models/%2e"),
        *("POST /api/signout", "POST /api/me", "GET /api/experimental/x", "GET /metrics"),
        *("GET /r1fleet/health/000000000000", "GET /x?/api/tags", "GET /api/tags\n"),
        *("POST /api/pull\nGET /api/tags?", "GET /api/tags\nx"),
    ],
)
def test_what_nobody_may(line: str) -> None:
    for expression in (USE, ADMIN, BLOBS):
        # Go's $ is the end of the text alone.
        assert not re.search(expression.pattern.replace("$", r"\Z"), line)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://ui.example.org", True),
        ("https://a.pages.example.org", True),
        ("http://localhost:3000", True),
        ("app://obsidian.md", True),
        ("https://ui.example.org.evil.org", False),
        ("https://uixexample.org", False),
        ("http://ui.example.org", False),
        ("https://evil.org/.pages.example.org", False),
        ("https://localhost.evil.org", False),
        ("null", False),
        ("", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    expression = made.origins(("https://ui.example.org", "https://*.pages.example.org"))
    assert bool(re.search(expression, origin)) is allowed


def test_any_origin() -> None:
    assert re.search(made.origins(("*",)), "https://whoever.example.com")


def test_a_certificate_of_its_own_ca_is_for_the_address_or_the_name() -> None:
    said = text()
    assert "https://10.0.0.7:11443, https://:11443 {" in said
    assert "default_sni 10.0.0.7" in said
    assert "issuer internal" in said
    named = text(gateway_name="gpu1.example.org")
    sites = "https://gpu1.example.org:11443, https://10.0.0.7:11443, https://:11443 {"
    assert sites in named
    assert "default_sni gpu1.example.org" in named
    assert "https://[fd00::7]:11443" in text(gateway_name="fd00::7")


def test_kinds_of_tls() -> None:
    files = {"gateway_certificate": "/etc/a.pem", "gateway_key": "/etc/a.key"}
    assert "\ttls /etc/a.pem /etc/a.key\n" in text(gateway_tls="files", **files)
    acme = text(gateway_tls="acme", gateway_name="gpu1.example.org")
    assert "issuer internal" not in acme
    assert "\nhttps://gpu1.example.org:11443, https://:11443 {" in acme
    plain = text(gateway_tls="off", gateway_listen="127.0.0.1:8080")
    assert "\nhttp://:8080 {\n\tbind 127.0.0.1\n" in plain
    assert "default_sni" not in plain


def test_the_engine_is_asked_by_a_name_that_it_accepts() -> None:
    said = text(port=11500)
    assert "reverse_proxy 127.0.0.1:11500 {" in said
    assert "header_up Host 127.0.0.1:11500" in said
    assert "header_up -Authorization" in said


def test_answers_are_not_buffered_and_end_with_their_client() -> None:
    # With -1, a client that leaves would not end its generation.
    assert not re.search(r"^\s*flush_interval", text(), re.MULTILINE)
    assert not re.search(r"^\s*(grace_period|read_body|write) ", text(), re.MULTILINE)


def test_secrets_are_in_the_file_of_tokens_alone() -> None:
    settings = Settings(expose="gateway")
    want = wanted.gateway(settings, STORE, "gpu1", "10.0.0.7", "x86_64")
    config, tokens = want.files
    own = STORE.for_host("gpu1").secret
    health = STORE.health.secret
    lines = ("alice use", "r1fleet-gateway use", "r1fleet-health health")
    assert tokens.content == "".join(
        f"{secret} {line}\n" for secret, line in zip((SECRET, own, health), lines, strict=True)
    )
    for file in (config, want.unit):
        assert SECRET not in file.content
        assert own not in file.content
    assert (tokens.mode, tokens.owner) == ("640", "root:r1fleet-gateway")


def test_the_archive_is_that_of_the_release() -> None:
    found = wanted.archive(Settings(), "aarch64")
    base = "https://github.com/caddyserver/caddy/releases/download/v2.11.9/caddy_2.11.9"
    assert found.url == f"{base}_linux_arm64.tar.gz"
    assert found.sums_url == f"{base}_checksums.txt"
    assert found.key == "2.11.9"
    pinned = wanted.archive(Settings(gateway_sha512="ab" * 64), "x86_64")
    assert pinned.key == "2.11.9-abababababab"


def test_low_ports_need_a_right_and_no_other_gateway_has_it() -> None:
    assert "CAP_NET" not in wanted.unit(Settings())
    for settings in (
        Settings(gateway_listen="0.0.0.0:443"),
        Settings(gateway_tls="acme", gateway_name="gpu1.example.org"),
    ):
        unit = wanted.unit(settings)
        assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in unit
        assert "PrivateUsers" not in unit


def test_a_pool_is_of_a_digest_and_a_context() -> None:
    pool = pool_id(f"sha256:{DIGEST}", 32768)
    assert re.fullmatch("[0-9a-f]{12}", pool)
    assert pool == pool_id(DIGEST, 32768)
    assert pool != pool_id(DIGEST, 16384)
    assert pool != pool_id("1" * 64, 32768)
