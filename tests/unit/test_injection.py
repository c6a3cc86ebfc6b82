"""Names and texts that meet a shell, a unit file or a terminal: harmless or refused."""

import getpass
import os
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from r1fleet import outcome, remote, settings_gateway, timeline
from r1fleet import settings_check as check
from r1fleet.alias.check import alias
from r1fleet.engine.install import _MODELS_DIR
from r1fleet.model.manifest import ModelSource, ModelWanted
from r1fleet.settings_mirror import address, cache_size, networks
from r1fleet.shell import assign, export, receive
from r1fleet.templates import env_quote
from r1fleet.why_text import print_timeline
from r1fleet.words import plain

# What ends a word, begins an option or means something to sh, systemd, nginx or a terminal.
HARMFUL = set("\"'`$\\;&|<>(){}*?!#%^=, \t\n\r\x00\x1b\x7f\x9b")
SUM = "ab" * 32

CHECKS: list[tuple[Callable[[str], object], str]] = [
    (check.path, "/data/models"),
    (check.model_directory, "/data/models"),
    (check.url, "https://host.example.org:8080/a/b"),
    (check.url, "http://[::1]:5000"),
    (check.server_url, "http://10.0.0.9:5080"),
    (check.version, "0.32.15"),
    (check.version, "0.33.0-rc1"),
    (check.sha256, SUM),
    (check.driver_version, "580.95.05"),
    (check.model_name, "team/deepseek-r1"),
    (check.tag, "14b-qwen-distill-q8_0"),
    (check.rate, "20M"),
    (lambda text: check.host_and_port(text, None), "gpu1.example.org:11434"),
    (lambda text: check.host_and_port(text, None), "[::1]:11434"),
    (lambda text: check.process_names((text,))[0], "ollama.service"),
    (lambda text: next(iter(check.digests({text: f"sha256:{SUM}"}))), "deepseek-r1:14b"),
    (lambda text: check.digests({"deepseek-r1:14b": text})["deepseek-r1:14b"], f"sha256:{SUM}"),
    (lambda text: next(iter(check.environment({text: "x"}, {}))), "GGML_X"),
    (alias, "deepseek-r1:fleet"),
    (address, "10.0.0.9"),
    (lambda text: networks((text,))[0], "10.20.0.0/16"),
    (cache_size, "100G"),
    (settings_gateway._host_name, "gpu1.example.org"),
    (settings_gateway._version, "2.11.9"),
    (settings_gateway._listen, "0.0.0.0:11443"),
    (lambda text: ModelWanted(text, "https://r.example.org", "/m").name, "team/deepseek-r1:14b"),
    (lambda text: ModelWanted("a:b", text, "/m").registry_url, "https://r.example.org/x"),
    (lambda text: ModelSource("path", text, SUM).place, "/data/x.gguf"),
]


def spoilt(sound: str) -> st.SearchStrategy[str]:
    """A sound text with something put in somewhere, or in place of it."""
    piece = st.one_of(st.sampled_from(sorted(HARMFUL)), st.characters(), st.text(max_size=4))
    at = st.integers(0, len(sound))
    return st.one_of(
        st.builds(lambda n, text: sound[:n] + text + sound[n:], at, piece),
        st.builds(lambda text: "-" + text, st.just(sound)),
        st.text(max_size=20),
    )


@pytest.mark.parametrize(("taken", "sound"), CHECKS, ids=[sound for _, sound in CHECKS])
def test_a_sound_name_is_taken(taken: Callable[[str], object], sound: str) -> None:
    assert taken(sound) == sound


@pytest.mark.parametrize(("taken", "sound"), CHECKS, ids=[sound for _, sound in CHECKS])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_name_is_harmless_or_refused(
    taken: Callable[[str], object], sound: str, data: st.DataObject
) -> None:
    text = data.draw(spoilt(sound))
    try:
        found = str(taken(text))
    except ValueError:
        return
    assert not set(found) & HARMFUL
    assert found.isascii()
    assert not found.startswith("-")
    assert ".." not in found.split("/")


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_a_shell_gets_every_text_as_it_is(texts: list[str]) -> None:
    names = [f"R1_{number}" for number in range(len(texts))]
    values = dict(zip(names, texts, strict=True))
    script = assign(values) + export({"R1_OUT": texts[0]})
    script += "printf '%s\\0' " + " ".join(f'"${name}"' for name in [*names, "R1_OUT"])
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [*texts, texts[0]]


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS.filter(str.isprintable), min_size=1, max_size=20))
def test_a_shell_reads_an_environment_file_as_systemd_does(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    """The login and the proxies of downloads come to both by such a file."""
    file = tmp_path_factory.mktemp("env") / "env"
    rows = [f"R1_{number}={env_quote(text)}\n" for number, text in enumerate(texts)]
    file.write_text("".join(rows), encoding="utf-8")
    names = " ".join(f'"$R1_{number}"' for number in range(len(texts)))
    script = f"set -a; . {file}; printf '%s\\0' {names}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == texts


@settings(max_examples=20, deadline=None)
@given(TEXTS)
def test_what_is_sent_shows_in_no_command_line(content: str) -> None:
    secret = f"s3cret-{content}"
    assert secret not in receive("/etc/r1fleet/x", secret)


@given(st.text())
def test_what_a_host_says_cannot_move_the_cursor(text: str) -> None:
    found = plain(text)
    assert all(char.isprintable() or char in "\n\t" for char in found)
    assert len(found) == len(text)
    assert not text.isprintable() or found == text


def test_plain_data_is_plain_all_through() -> None:
    found: Any = {"a\x1b": ["\x9b2J", {"b": "x\x07"}], "n": 1, "none": None}
    assert plain(found) == {"a ": [" 2J", {"b": "x "}], "n": 1, "none": None}


def test_a_failure_of_a_host_is_told_without_its_escapes() -> None:
    host: Any = type("Host", (), {"name": "escapes", "print_prefix": "[escapes] "})()
    remote.record_failure(host, "the engine: \x1b]0;owned\x07\x1b[2Jall is well")
    assert outcome.of("escapes").failure == "the engine:  ]0;owned  [2Jall is well"
    outcome.forget("escapes")


def test_a_history_that_somebody_wrote_cannot_paint_the_terminal() -> None:
    line = (
        '{"schema": 1, "at": "2026-01-01", "run": "0", "who": "ops\\u001b[31m", "verdict":'
        ' "changed", "changes": ["\\u009b2J", "[bold]x[/bold]"], "reason": "\\u001b[2J"}'
    )
    stream = StringIO()
    console = Console(file=stream, width=160, force_terminal=True, color_system=None)
    print_timeline(console, timeline.read(["@@history", line]))
    assert "\x1b" not in stream.getvalue()
    assert "\x9b" not in stream.getvalue()
    assert "[bold]x[/bold]" in stream.getvalue()


def made(folder: Path) -> subprocess.CompletedProcess[str]:
    """The model directory, made as root makes it, for the user that runs this test."""
    script = assign({"DIR": str(folder), "USER": getpass.getuser()}) + _MODELS_DIR
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


def test_a_link_that_the_service_user_planted_gets_nobody_a_foreign_directory(
    tmp_path: Path,
) -> None:
    foreign, link = tmp_path / "etc", tmp_path / "home" / "models"
    foreign.mkdir(mode=0o700)
    link.parent.mkdir()
    link.symlink_to(foreign)
    if os.getuid() == 0:
        os.chown(link, 65534, 65534, follow_symlinks=False)
    for folder in (link, link / "below"):
        done = made(folder)
        assert done.returncode == 1
        assert f"{link} is a link that is not root's" in done.stderr
    assert list(foreign.iterdir()) == []
    assert foreign.stat().st_mode & 0o777 == 0o700
    assert made(tmp_path / "new" / "models").returncode == 0
    assert (tmp_path / "new" / "models").is_dir()
