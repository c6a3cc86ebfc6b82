"""`r1fleet settings`: every value has a place, and what it overrode is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet.settings_where import Layer, assigned_at, origins

VALUES = st.sampled_from([1, 2, None, "a", ["x"], ("x",)])


def test_the_last_place_wins_and_names_what_it_overrode() -> None:
    layers = [Layer("group all", {"tag": None}), Layer("group gpus", {"tag": "7b"})]
    layers.append(Layer("host", {"tag": "14b"}))
    (row,) = origins({"tag": None}, layers, {"tag": "14b"})
    assert (row.value, row.source) == ("14b", "host")
    assert row.overrode == (("7b", "group gpus"), (None, "default"))


def test_a_place_that_repeats_what_holds_anyway_is_no_origin() -> None:
    layers = [Layer("group all", {"sizes": ["14b"]})]
    (row,) = origins({"sizes": ("14b",)}, layers, {"sizes": ("14b",)})
    assert (row.source, row.overrode) == ("default", ())


def test_a_value_that_no_place_gave_says_so() -> None:
    (row,) = origins({"host": "127.0.0.1:1"}, [], {"host": "127.0.0.1:2"})
    assert row.source == "worked out from other settings"


@given(st.lists(st.dictionaries(st.sampled_from("ab"), VALUES), max_size=5))
def test_the_value_is_what_pyinfra_would_find(datas: list[dict[str, object]]) -> None:
    defaults: dict[str, object] = {"a": 0, "b": 0}
    merged = dict(defaults)
    for data in datas:
        merged.update(data)
    layers = [Layer(str(number), data) for number, data in enumerate(datas)]
    for row in origins(defaults, layers, merged):
        assert row.value == merged[row.name]
        below = [value for value, _ in row.overrode]
        assert (row.source == "default") == (not below)


def test_the_line_of_a_file_is_that_of_the_assignment(tmp_path: Path) -> None:
    file = tmp_path / "gpus.py"
    file.write_text('# tag\ntag = "7b"\nhosts = [("a", {"port": 1})]\n')
    assert (assigned_at(file, "tag"), assigned_at(file, "port")) == (2, 3)
    assert assigned_at(file, "model") is None
    file.write_text("tag = = 1")
    assert assigned_at(file, "tag") is None


@pytest.fixture
def inventory(tmp_path: Path) -> str:
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "gpus.py").write_text('tag = "7b"\nport = 11500\n')
    (tmp_path / "prod.py").write_text('gpus = [("pc1", {"tag": "14b"}), ("pc2", {})]\n')
    return str(tmp_path / "prod.py")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: reading an inventory makes blocking calls cooperative for good."""
    argv = [sys.executable, "-m", "r1fleet.cli", "settings", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_command_shows_places_and_values(inventory: str) -> None:
    done = command(inventory, "pc1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tag = found["settings"]["tag"]
    assert (found["schema"], found["host"], tag["value"]) == (1, "pc1", "14b")
    assert tag["source"] == f"host, {inventory}:1"
    assert [row["value"] for row in tag["overrode"]] == ["7b", None]
    assert found["settings"]["ollama_host"]["value"] == "127.0.0.1:11500"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pc9"], "no host or group of the inventory is named 'pc9'"),
        (["gpus"], "gpus is more than one host: pc1, pc2"),
        (["pc1", "contxt_max"], "no setting is named 'contxt_max'; did you mean 'context_max'?"),
    ],
)
def test_wrong_words_are_one_line(inventory: str, words: list[str], told: str) -> None:
    done = command(inventory, *words)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (2, "", told)


def test_what_may_be_a_password_is_not_shown_also_where_it_was_overridden() -> None:
    secret = {
        "https_proxy": "http://me:hunter2@proxy:3128",
        "extra_env": {"API_TOKEN": "hunter2"},
        "registry_login_command": "vault --pass hunter2",
        "gateway_tokens": "command:vault --pass hunter2",
    }
    other = {key: {} if key == "extra_env" else "file:x" for key in secret}
    layers = [Layer("group all", secret), Layer("host", other), Layer("--data", secret)]
    rows = list(origins(dict.fromkeys(secret), layers, secret))
    assert "hunter2" not in str(rows)
    values = {row.name: row.value for row in rows}
    assert values["https_proxy"] == "http://***@proxy:3128"
    assert values["extra_env"] == {"API_TOKEN": "***"}
    assert rows[0].source == "--data"
