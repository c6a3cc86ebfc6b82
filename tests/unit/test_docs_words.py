"""Links, settings and quoted messages in README.md and docs/ exist."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pyinfra
import pytest
import yaml

from r1fleet.settings import Settings
from tests import pages
from tests.pages import PAGES, ROOT

# Pages that other branches bring.
PENDING = ("docs/hosts.md", "docs/adopt.md", "docs/monitoring", "docs/remove.md")

# What stands in backticks like a setting and is none, by whose it is.
OTHERS = {
    *("ssh_hostname", "ssh_key", "ssh_password", "ssh_port", "group_data"),  # pyinfra
    *("base_url", "api_key", "num_ctx", "num_gpu"),  # clients and Ollama's API
    *("boot_id", "nvidia_uvm", "models_mount", "attn_v", "ffn_down", "q8_0", "allow_failure"),
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    for link in pages.links(page):
        if re.match("[a-z]+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if relative(target) in PENDING:
            continue
        assert target.exists(), link
        assert not anchor or anchor in pages.headings(target), link


def test_pages_that_the_product_names_exist() -> None:
    texts = [*(ROOT / "r1fleet").rglob("*.*"), *(ROOT / "lab").rglob("*.*"), *ROOT.glob("*.*")]
    named = {
        name
        for path in texts
        if path.suffix in (".py", ".j2", ".sh", ".yaml") and path.is_file()
        for name in re.findall(r"(?<!ggml's )docs/[a-z-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    first = [re.findall("`([^`]+)`", row.split(" | ")[0]) for row in setting_rows(page)]
    named = {name for row in first for name in row}
    for span in pages.spans(page):
        match = re.match(r"([a-z]\w*_\w+)(?=$| = |[:=])", span) or re.match(r"([a-z]+)(?=: )", span)
        named |= {match[1]} if match else set()
    assert named - set(Settings.model_fields) - OTHERS == set()


def setting_rows(page: Path) -> list[str]:
    found, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(("| setting", "| 设置")):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and "---" not in line:
            found.append(line)
    return found


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_what_is_fenced_says_in_which_language(page: Path) -> None:
    for token in pages.tokens(page):
        if token.type == "fence":
            assert token.info, f"{relative(page)}: {token.content[:40]!r}"
            if token.info == "yaml":
                assert yaml.safe_load(token.content)
            if token.info == "python":
                ast.parse(token.content.strip().rstrip(","))


@cache
def messages() -> list[str]:
    """The texts of r1fleet and of what pyinfra says of connections; NUL where a value stands."""
    home = Path(pyinfra.__file__).parent / "connectors"
    files = [*(ROOT / "r1fleet").rglob("*.py"), home / "ssh.py", *home.rglob("sshuserclient/*.py")]
    found = [
        "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in parts(node))
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) or is_text(node)
    ]
    scripts = "".join(path.read_text() for path in (ROOT / "r1fleet").rglob("*.sh"))
    told = re.findall(r'"([^"\n]+)"', scripts)
    return found + [re.sub(r"\$\{?\w+[^}\s]*\}?", "\0", text) for text in told]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def parts(node: Any) -> list[Any]:
    return node.values if isinstance(node, ast.JoinedStr) else [node]


def is_said(text: str) -> bool:
    """Whether the product says a text, in one piece or as what, why and what to do."""
    if len(re.sub("[^a-zA-Z]", "", text)) < 5:
        return False
    form = re.compile(".*?".join(re.escape(piece) for piece in text.split("...")), re.S)
    if any(form.search(message) for message in messages()):
        return True
    pieces = [re.split(mark, text, maxsplit=1) for mark in (": ", "; ") if mark in text]
    return any(all(map(is_said, pair)) for pair in pieces)


def quoted() -> list[str]:
    """What the list items of the page about troubles begin with."""
    found, begun = [], False
    for token in pages.tokens(ROOT / "docs" / "troubleshooting.md"):
        begun = begun or token.type == "list_item_open"
        if token.type == "inline" and begun:
            for child in token.children or ():
                if child.type == "code_inline":
                    found.append(child.content)
                elif child.content.strip() != ",":
                    break
            begun = False
    return found


def test_the_page_about_troubles_quotes_what_is_said() -> None:
    assert len(quoted()) > 40
    assert [text for text in quoted() if not is_said(text)] == []


def test_a_message_that_nobody_says_is_found_out() -> None:
    assert not is_said("the moon is in the way: wait")
    assert not is_said("no room for ... on the moon")
