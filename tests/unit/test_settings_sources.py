"""Where models come from, and the registry's login: checked, and never shown."""

from pathlib import Path
from typing import Any

import pytest

from r1fleet import decide
from r1fleet import settings_sources as sources
from r1fleet.settings import Settings, SettingsError, read
from r1fleet.settings_sources import LoginError
from tests.unit.build import bare, working

SUM = "ab" * 32
NAME = "deepseek-r1:14b"


@pytest.mark.parametrize(
    "source",
    [
        {"path": "/data/x.gguf"},
        {"path": "/data/x.gguf", "url": "https://h/x", "sha256": SUM},
        {"path": "data/x.gguf", "sha256": SUM},
        {"path": "/data/$(reboot)", "sha256": SUM},
        {"url": "ftp://h/x", "sha256": SUM},
        {"file": "x\ny", "sha256": SUM},
        {"file": "x.gguf", "sha256": "abc"},
        {"file": "x.gguf", "sha256": SUM, "size": "1"},
    ],
)
def test_a_source_that_cannot_be_used(source: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="model_sources: has"):
        read("h", {"model_sources": {NAME: source}})


def test_a_sourced_model_is_wanted_by_its_file_and_not_by_a_manifest() -> None:
    source = {"file": "~/x.gguf", "sha256": SUM}
    settings = Settings(model_sources={NAME: source}, model_digests={NAME: "sha256:" + "0" * 64})
    choice = decide.size(settings, bare("T4", driver=working("T4"))).sizing.chosen
    want = decide.model_wanted(settings, choice)
    assert want.source == sources.of(source)
    assert want.digest is None
    assert not want.by_engine  # nothing of it needs the engine


@pytest.mark.parametrize(
    "more", [{"registry_url": "https://host/path"}, {"registry_login_command": "echo x"}]
)
def test_the_engines_own_pull_knows_no_login_and_no_path(more: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="pull_via: knows no registry"):
        read("h", {"pull_via": "api", **more})


def test_a_login_is_basic_or_a_token(tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.write_text("me:secret\n")
    assert sources.authorization(str(file), None) == "Basic bWU6c2VjcmV0"
    assert sources.authorization(None, "echo token-1") == "Bearer token-1"
    assert sources.authorization(None, None) is None


@pytest.mark.parametrize("command", ["true", "printf 'secret\\nsecret'", "echo secret; exit 3"])
def test_a_login_that_is_none_is_told_without_it(command: str, tmp_path: Path) -> None:
    with pytest.raises(LoginError) as caught:
        sources.authorization(None, command)
    assert "secret" not in str(caught.value)
    with pytest.raises(LoginError, match="cannot be read"):
        sources.authorization(str(tmp_path / "none"), None)


@pytest.mark.parametrize("text", ['to"ken', "to\\ken", "to ken", "ключ"])
def test_a_token_with_what_no_token_has_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    """It would end its quotes in what curl reads."""
    file = tmp_path / "login"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LoginError) as caught:
        sources.authorization(str(file), None)
    assert text not in str(caught.value)


def test_the_registrys_login_is_not_for_the_server_of_a_file() -> None:
    source = {"url": "https://files.example.org/x.gguf", "sha256": SUM}
    settings = Settings(registry_login_command="echo me:secret", model_sources={NAME: source})
    choice = decide.size(settings, bare("T4", driver=working("T4"))).sizing.chosen
    assert decide.model_wanted(settings, choice).authorization is None


def test_a_login_shows_in_no_text_of_what_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.write_text("me:secret\n")
    settings = Settings(registry_login_file=str(file))
    choice = decide.size(settings, bare("T4", driver=working("T4"))).sizing.chosen
    want = decide.model_wanted(settings, choice)
    assert want.authorization == "Basic bWU6c2VjcmV0"
    assert "bWU6c2VjcmV0" not in repr(want)
