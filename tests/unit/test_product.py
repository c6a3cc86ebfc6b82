"""Properties of the product's own text."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = [
    *(path for path in (ROOT / "r1fleet").rglob("*") if path.suffix in (".py", ".sh", ".yaml")),
    *(ROOT / "templates").iterdir(),
    ROOT / "deploy.py",
    ROOT / "config.py",
]


def test_the_product_knows_nothing_of_the_lab() -> None:
    """What the lab must look like it simulates; only the command `r1fleet lab` names it."""
    word = re.compile(r"\b(lab|r1lab|simulated|nspawn_lab)\b", re.IGNORECASE)
    found = [
        f"{path.name}:{number}"
        for path in PRODUCT
        if path.name != "cli.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line) and "inventories/lab.py" not in line
    ]
    assert found == []


def test_scripts_for_hosts_are_plain_ascii() -> None:
    """Another byte in a script can meet a locale that cannot read it."""
    for path in PRODUCT:
        if path.suffix in (".sh", ".j2"):
            assert path.read_bytes().isascii(), path
