"""Each command in README.md and docs/ is one that there is, and is run by a test or says that it is
not; each command that there is has an example and stands in the README."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from r1fleet.cli import COMMANDS, main
from r1fleet.settings import Settings
from tests import pages
from tests.pages import PAGES, ROOT, Command
from tests.pages_table import RUN_BY, given_to


@cache
def makefile() -> dict[str, list[str]]:
    """Each target with the words of its prerequisites and the lines of its recipe."""
    text = (ROOT / "Makefile").read_text()
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"([a-z-]+):(?!=)([^#]*)", line):
            name = match[1]
            found[name] = match[2].split()
        elif line.startswith("\t") and name:
            found[name].append(line.strip().lstrip("@").replace("$(BIN)/", ""))
    return found


def is_made_by_ci(target: str) -> bool:
    """Whether .ci/run makes a target, or does by a test all that the target does."""
    targets, ci = makefile(), (ROOT / ".ci" / "run").read_text()
    reached = {name for name in targets if re.search(rf"^ *make (-s )?{name}\b", ci, re.M)}
    while True:
        lines = [line for name in reached for line in targets[name]]
        calls = {line.rpartition(" ")[2] for line in lines if line.startswith("$(MAKE)")}
        more = {name for name in {*lines, *calls} if name in targets} - reached
        if not more:
            break
        reached |= more
    done = {Command("", line, is_run=True).shape for line in lines if line.startswith("r1fleet")}
    done |= set(RUN_BY)
    steps = [step for step in targets[target] if not step.startswith("echo")]
    return target in reached or all(
        is_made_by_ci(step) if step in targets else Command("", step, is_run=True).shape in done
        for step in steps
    )


def unknown(command: Command) -> str | None:
    """Why nobody can say that a command of a page is run; None when a test runs it."""
    words = command.words
    if words[0] == "make":
        missing = [target for target in words[1:] if not is_made_by_ci(target)]
        return f"no CI makes {', '.join(missing)}" if missing else None
    if command.shape not in RUN_BY:
        return f"no row of tests/pages_table.py has {command.shape!r}"
    return None


def test_each_command_is_run_by_a_test_or_says_that_it_is_not() -> None:
    asked = [command for command in pages.commands() if command.is_run]
    assert len(asked) > 60
    told = {command.place: why for command in asked if (why := unknown(command))}
    assert told == {}


@pytest.mark.parametrize("shape", RUN_BY)
def test_the_test_that_is_named_has_the_commands_words(shape: str) -> None:
    if shape.startswith(("r1fleet", "pyinfra")):
        program, *words = shape.replace("--data ", "").split()
        del program
    else:
        words = [shape]
    said = "\n".join(pages.words_of(test) for test in RUN_BY[shape])
    from_page = [c.place.partition(":")[0] for c in pages.commands() if c.text == shape]
    # It takes them from the table, by given_to, or from the page itself.
    if any(source in said for source in (*RUN_BY[shape], *from_page)):
        return
    missing = [word for word in words if word not in said]
    assert missing == []


def test_the_table_has_no_row_that_no_page_needs() -> None:
    shapes = {command.shape for command in pages.commands() if command.is_run}
    assert set(RUN_BY) - shapes == set()


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command of ours that words call, and the rest of them."""
    command: click.Command = main
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found, f"there is no command {rest[0]}"
        command, rest = found, rest[1:]
    return command, rest


def test_r1fleet_takes_the_options_and_arguments_of_the_pages() -> None:
    for command in pages.commands():
        if command.words[0] == "r1fleet":
            found, rest = resolved(command.words)
            try:
                found.make_context("r1fleet", rest)
            except click.ClickException as error:
                pytest.fail(f"{command.place}: {command.text}: {error.message}")


def test_pyinfra_takes_the_options_and_arguments_of_the_pages() -> None:
    """In a process of its own: importing its command line changes how this one blocks."""
    script = """
import json, sys, click
from pyinfra_cli.cli import cli
for place, words in json.load(sys.stdin):
    try:
        cli.make_context("pyinfra", words)
    except click.ClickException as error:
        print(f"{place}: {error.message}")
"""
    calls = [(c.place, c.words[1:]) for c in pages.commands() if c.words[0] == "pyinfra"]
    assert len(calls) > 10
    told = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == ""


def test_data_of_the_commands_are_settings() -> None:
    for command in pages.commands():
        words = command.words
        for word, pair in pairwise(words):
            if word == "--data":
                key, _, value = pair.partition("=")
                assert Settings(**{key: plain(value)}), command.place


def plain(value: str) -> Any:
    """As pyinfra reads a value of --data."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def test_commands_in_the_text_exist_with_their_options() -> None:
    for page in PAGES:
        for span in pages.spans(page):
            words = span.removeprefix(".venv/bin/").split()
            if words[:1] != ["r1fleet"] or "X" in words:
                continue
            command, rest = resolved([word for word in words if word != "..."])
            known = {name for param in command.params for name in param.opts} | {"--help"}
            known |= {"--version"} if command is main else set()
            given = {word for word in rest if word.startswith("-")}
            assert given <= known, f"{page.relative_to(ROOT)}: `{span}`"


def leaves() -> list[list[str]]:
    groups: list[list[str]] = []
    for name in COMMANDS:
        command, _ = resolved(["r1fleet", name])
        if isinstance(command, click.Group):
            groups += [[name, below] for below in command.list_commands(click.Context(command))]
        groups.append([name])
    return groups


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_help_has_an_example(words: list[str]) -> None:
    command, _ = resolved(["r1fleet", *words])
    assert re.search(r"Examples?: r1fleet " + " ".join(words), command.help or "")


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_readme_has_every_command_in_its_table(readme: str) -> None:
    said = "\n".join(rows(ROOT / readme))
    jobs = [path.name for path in ROOT.glob("*.py") if path.name != "config.py"]
    names = [f"r1fleet {name}" for name in COMMANDS] + [f"pyinfra INVENTORY {job}" for job in jobs]
    assert [name for name in names if f"| `{name}" not in said] == []


def rows(page: Path) -> list[str]:
    return [line for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]


def test_the_chinese_readme_has_the_same_commands_settings_and_pages() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    own = [command for command in pages.commands() if command.place.startswith("README")]
    typed = {
        name: {c.text for c in own if c.place.startswith(f"{name}:")}
        for name in ("README.md", "README.zh.md")
    }
    shown = {text.split('"')[0] for text in typed["README.zh.md"]}
    assert shown == {
        t.split('"')[0]
        for t in typed["README.md"]
        if not t.startswith(("make check", "make lab", "make bench", "python"))
    }
    first = [
        [re.findall("`[^`]+`", row.split(" | ")[0]) for row in rows(page)]
        for page in (english, chinese)
    ]
    assert first[0] == first[1]
    assert set(pages.links(english)) - set(pages.links(chinese)) <= {
        "README.zh.md",
        "https://pyinfra.com",
    }


def test_shells_complete_commands_and_options() -> None:
    lines = given_to("tests/unit/test_docs.py::test_shells_complete_commands_and_options")
    assert len(lines) == 3
    for command in lines:
        made = re.search(r"_R1FLEET_COMPLETE=(\w+)_source", command.text)
        assert made
        assert "_r1fleet_completion" in completed(f"{made[1]}_source", "")
    assert "plain,status" in completed("bash_complete", "r1fleet sta")
    assert "plain,--limit" in completed("bash_complete", "r1fleet status --l")


def completed(what: str, typed: str) -> str:
    more = {"_R1FLEET_COMPLETE": what, "COMP_WORDS": typed}
    more["COMP_CWORD"] = str(len(typed.split()) - 1)
    return subprocess.run(
        [Path(sys.executable).parent / "r1fleet"],
        env=os.environ | more,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
