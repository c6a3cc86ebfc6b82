"""GPUs by the names people use: "RTX 4090", "a100 80gb", "DGX Spark"."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache

from r1fleet import catalog
from r1fleet.catalog import GpuInfo

# Words that a name is recognised without.
_MAKERS = frozenset({"nvidia", "geforce", "tesla", "quadro"})
_MEMORY = re.compile(r"(\d+) ?(gb|gib|g)$")


class UnknownGpu(ValueError):
    """No card, or more than one, goes by that name; the message names the nearest ones."""


def find(name: str) -> GpuInfo:
    """The card of a name; makers' words, case and spaces do not matter. Raises UnknownGpu."""
    wanted, table = _plain(name), _names()
    if wanted in table:
        return table[wanted]
    sizes = {
        card.name: card for alias, card in table.items() if _MEMORY.sub("", alias).strip() == wanted
    }
    if len(sizes) == 1:
        return next(iter(sizes.values()))
    if sizes:
        raise UnknownGpu(f"there are several {name}: {', '.join(sizes)}; name one of them")
    near = [table[alias].name for alias in get_close_matches(wanted, table, n=8, cutoff=0.3)]
    nearest = list(dict.fromkeys(near))[:3] or ["RTX 4090", "L4", "Apple M4"]
    raise UnknownGpu(f"there is no GPU {name!r} in the catalogue; nearest: {', '.join(nearest)}")


@cache
def _names() -> dict[str, GpuInfo]:
    """Every plain name; a card's whole name goes before what another's is short for."""
    names: dict[str, GpuInfo] = {}
    for card in catalog.gpus():
        names.setdefault(_plain(card.name), card)
    for card in catalog.gpus():
        for alias in _aliases(card.name):
            names.setdefault(_plain(alias), card)
    return names


def _aliases(name: str) -> Iterator[str]:
    """The name, and what "A or B 80 GB" and "A (B)" are short for."""
    yield name
    bare, _, other = name.partition(" (")
    if other:
        yield from (bare, other.rstrip(")"))
    words = name.split()
    if "or" in words:
        place = words.index("or")
        tail = words[place + 2 :]
        yield " ".join([*words[:place], *tail])
        yield " ".join([*words[place + 1 : place + 2], *tail])


def _plain(name: str) -> str:
    words = re.sub(r"[^a-z0-9 ]+", " ", name.lower()).split()
    text = " ".join(word for word in words if word not in _MAKERS)
    # "24 gb" and "24gb", "4060ti" and "4060 ti" are the same.
    text = re.sub(r"(\d) ?(gb|gib)\b", r"\1 gb", text)
    return re.sub(r"(\d)(ti|super)\b", r"\1 \2", text)
