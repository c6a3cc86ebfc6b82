"""The store of tokens, and the command that keeps it."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from r1fleet.gateway import tokens
from r1fleet.gateway.tokens import Store, Token, TokensError, parse
from r1fleet.token_command import token

SECRETS = tuple(f"r1f_{letter * 43}" for letter in "abc")
KEY = "k" * 43
TEXT = f"""key {KEY}
# people
alice use {SECRETS[0]}
alice use {SECRETS[1]}

bob admin {SECRETS[2]}
"""
STORE = Store(
    (
        Token("alice", "use", SECRETS[0]),
        Token("alice", "use", SECRETS[1]),
        Token("bob", "admin", SECRETS[2]),
    ),
    KEY,
)


def test_a_store_is_read() -> None:
    assert parse(TEXT) == STORE
    assert parse("") == Store()


@pytest.mark.parametrize(
    "line",
    [
        f"alice use {SECRETS[0]}x",
        f"alice root {SECRETS[0]}",
        f"alice {SECRETS[0]}",
        f"al{{ice use {SECRETS[0]}",
        f"r1fleet-gateway use {SECRETS[0]}",
        f"key use {SECRETS[0]}",
        "alice use r1f_short",
        f"key {KEY}\nkey {KEY}",
        "key short",
        f"a use {SECRETS[0]}\nb use {SECRETS[0]}",
    ],
)
def test_a_line_that_is_none_is_refused_without_a_word_of_it(line: str) -> None:
    with pytest.raises(TokensError) as refused:
        parse(line)
    assert "r1f_" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_secrets_are_in_no_representation() -> None:
    shown = f"{STORE!r} {STORE.for_host('gpu1')!r} {STORE.tokens}"
    assert "r1f_" not in shown
    assert KEY not in shown


def test_each_host_has_a_token_of_its_own_that_stays() -> None:
    one, other = STORE.for_host("gpu1"), STORE.for_host("gpu2")
    assert one == Store(key=KEY).for_host("gpu1")
    assert one.secret != other.secret != Store(key="x" * 43).for_host("gpu2").secret
    assert (one.name, one.role) == ("r1fleet-gateway", "use")
    assert re.fullmatch(r"r1f_[A-Za-z0-9_-]{43}", one.secret)
    with pytest.raises(TokensError, match="token new"):
        Store().for_host("gpu1")


def test_the_lines_for_caddy() -> None:
    lines = f"{SECRETS[0]} alice use\n{SECRETS[1]} alice use\n{SECRETS[2]} bob admin\n"
    assert tokens.caddy_lines(STORE.tokens) == lines
    assert tokens.caddy_lines(reversed(STORE.tokens)) == lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def test_a_store_comes_from_file_variable_or_command(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokens.read(f"file:{file}") == STORE
    monkeypatch.setenv("R1_TEST_TOKENS", TEXT)
    assert tokens.read("env:R1_TEST_TOKENS") == STORE
    assert tokens.read(f"command:cat {file}") == STORE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(TokensError, match="others can read it"):
        tokens.read(f"file:{file}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("env:R1_NOT_THERE", "no such variable"),
        ("file:/nonexistent/tokens", "r1fleet token new NAME"),
        ("command:exit 3", "it ended with 3"),
        ("command:echo hunter2", "line 1"),
    ],
)
def test_a_store_that_cannot_be_had(source: str, words: str) -> None:
    with pytest.raises(TokensError) as refused:
        tokens.read(source)
    assert words in str(refused.value)
    assert str(refused.value).startswith("gateway_tokens: ")
    assert "hunter2" not in str(refused.value)


def run(*words: str, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(token, list(words))
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def test_new_prints_the_token_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tokens"
    out, err = run("new", "alice", "--file", str(path))
    assert re.fullmatch(r"r1f_[A-Za-z0-9_-]{43}\n", out)
    assert err == ""
    assert [path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777] == [0o600, 0o700]
    store = parse(path.read_text())
    assert store.tokens == (Token("alice", "use", out.strip()),)
    second, _ = run("new", "bob", "--role", "admin", "--file", str(path))
    assert parse(path.read_text()).tokens[1] == Token("bob", "admin", second.strip())
    assert parse(path.read_text()).key == store.key is not None


def test_a_store_written_by_hand_gets_its_key(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"# mine\ncarol use {SECRETS[0]}")
    run("new", "alice", "--file", str(path))
    assert parse(path.read_text()).key
    assert [one.name for one in parse(path.read_text()).tokens] == ["carol", "alice"]
    assert "# mine\n" in path.read_text()


def test_list_shows_no_secret(file: Path) -> None:
    out, _ = run("list", "--file", str(file))
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["alice", "use"],
        ["alice", "use"],
        ["bob", "admin"],
    ]
    assert len({line.split()[2] for line in out.splitlines()}) == 3
    for secret in (*SECRETS, KEY):
        assert secret[4:24] not in out


def test_rotation_leaves_the_newest(file: Path) -> None:
    run("revoke", "alice", "--old", "--file", str(file))
    assert parse(file.read_text()).tokens == STORE.tokens[1:]
    assert file.stat().st_mode & 0o777 == 0o600
    run("revoke", "alice", "--old", "--file", str(file), code=2)
    run("revoke", "alice", "--file", str(file))
    assert parse(file.read_text()) == Store(STORE.tokens[2:], KEY)
    assert "# people\n" in file.read_text()


@pytest.mark.parametrize("name", ["key", "nobody", "#", "", "r1fleet-gateway"])
def test_only_tokens_that_are_there_are_revoked(file: Path, name: str) -> None:
    run("revoke", name, "--file", str(file), code=2)
    assert file.read_text() == TEXT


@pytest.mark.parametrize(
    "name", ["a b", "key", "r1fleet-gateway", "r1fleet-health", "-x", "{a}", "a\n"]
)
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    run("new", "--file", str(tmp_path / "tokens"), "--", name, code=2)
    assert list(tmp_path.iterdir()) == []
