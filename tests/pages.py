"""The commands, links and names in README.md and docs/, and which test runs each command.

In these pages an indented block, or one fenced as `sh`, is what a reader types; everything else is
fenced with its language. A command that no test runs says "not run by tests", behind it or in the
paragraph above its block.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = "not run by tests"
SHELL = ("sh", "shell", "console")
_COMMENT = re.compile(r"(^|\s)#\s.*$")


@dataclass(frozen=True)
class Command:
    """One command of a page: without its comment, and without what `&&` puts before it."""

    place: str  # "docs/mirror.md:12"
    text: str
    is_run: bool  # whether the page says nothing to the contrary

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def shape(self) -> str:
        """What a test must have run: for r1fleet and pyinfra the subcommand or job with the names
        of options and settings, whatever their values; for other programs the whole line."""
        words = self.words
        if words[0] == "r1fleet":
            plain = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
            return " ".join(["r1fleet", *plain[: _depth(words)], *_options(words)])
        if words[0] == "pyinfra":
            jobs = [word.rpartition("/")[2] for word in words if word.endswith(".py")][1:]
            return " ".join(["pyinfra", *jobs, *_options(words)])
        return self.text


def _depth(words: list[str]) -> int:
    return 2 if words[1:2] in (["lab"], ["token"]) else 1


def _options(words: list[str]) -> list[str]:
    """Names of options, sorted; of --data its key, too."""
    own = words[: words.index("--")] if "--" in words else words
    found = {word.partition("=")[0] for word in own if re.match("--?[a-z]", word)} - {"--data"}
    pairs = pairwise(own)
    found |= {f"--data {value.partition('=')[0]}" for word, value in pairs if word == "--data"}
    return sorted(found)


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def commands() -> list[Command]:
    """All commands of all pages."""
    return [command for page in PAGES for command in _of(page)]


def _of(page: Path) -> Iterator[Command]:
    above = ""
    for token in tokens(page):
        if token.type == "inline":
            above = token.content
        if token.type not in ("code_block", "fence") or not token.map:
            continue
        first = token.map[0] + (1 if token.type == "code_block" else 2)
        where = str(page.relative_to(ROOT))
        if token.type == "code_block" or token.info in SHELL:
            yield from _lines(token.content, where, first, NOT_RUN in above)
        elif token.info == "yaml":
            for text in _scripts(yaml.safe_load(token.content)):
                yield from _lines(text, where, first, NOT_RUN in above)
        else:  # what a terminal shows
            typed = [line[2:] for line in token.content.splitlines() if line.startswith("$ ")]
            yield from _lines("\n".join(typed), where, first, NOT_RUN in above)


def _lines(text: str, where: str, first: int, marked: bool) -> Iterator[Command]:
    whole, begun = "", first
    for number, line in enumerate(text.splitlines(), first):
        comment = _COMMENT.search(line)
        marked_here = comment is not None and NOT_RUN in comment[0]
        plain = _COMMENT.sub("", line)
        marked |= marked_here and not plain.strip()  # a line of its own speaks for all below it
        begun = begun if whole else number
        whole += plain
        if whole.endswith("\\") or not _is_whole(whole):
            whole = whole.removesuffix("\\") + " "
            continue
        for part in whole.split(" && "):
            typed = " ".join(part.split()).removeprefix(".venv/bin/")
            if typed and not typed.startswith("cd "):
                yield Command(f"{where}:{begun}", typed, not (marked or marked_here))
        whole = ""
    assert not whole, f"{where}:{begun}: no end of {whole!r}"


def _is_whole(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def _scripts(found: Any) -> Iterator[str]:
    """The shell lines in a file of a CI."""
    if isinstance(found, list):
        for item in found:
            yield from _scripts(item)
    elif isinstance(found, dict):
        for key, value in found.items():
            if key in ("run", "script", "after_script"):
                yield "\n".join(value) if isinstance(value, list) else str(value)
            else:
                yield from _scripts(value)


def spans(page: Path) -> Iterator[str]:
    """The texts in backticks."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "link_open":
                yield str(child.attrs["href"])


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and GitLab make them."""
    found = tokens(page)
    titles = [b.content for a, b in pairwise(found) if a.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def words_of(test: str) -> str:
    """The texts in a test, "path::name", and in what it uses of its own file and of the hosts'
    conftest.py. Raises KeyError when there is none of that name."""
    path, _, name = test.partition("::")
    known = dict(_defined(ROOT / path))
    start = known[name]
    if path.startswith(("tests/lab/", "tests/fleet/")):
        for other, nodes in _defined(ROOT / "tests" / "lab" / "conftest.py").items():
            known[other] = [*known.get(other, []), *nodes]
    return "\n".join(text for node in start for text in _texts(node, known, set()))


@cache
def _defined(path: Path) -> dict[str, list[ast.AST]]:
    """What a file defines at its top level, and the methods of its classes."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in parts:
            if isinstance(part, ast.FunctionDef):
                found.setdefault(part.name, []).append(part)
            elif isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                found.setdefault(part.targets[0].id, []).append(part)
    return found


def _texts(node: ast.AST, known: dict[str, list[ast.AST]], seen: set[str]) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        name = next((str(getattr(part, key)) for key in _NAMES if hasattr(part, key)), "")
        if name in known and name not in seen:
            seen.add(name)
            for used in known[name]:
                yield from _texts(used, known, seen)


_NAMES = ("id", "attr", "arg")  # of a name, a method, and an argument: a fixture
