"""The tables of docs/sizing.md: `python -m r1fleet.sizing_table` writes them there anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r1fleet import catalog
from r1fleet.catalog import ModelTag
from r1fleet.fit import Row, described, fit
from r1fleet.settings import Settings
from r1fleet.sizing import Gpu, Hardware, Policy, choose

DOCUMENT = Path("docs/sizing.md")
BEGIN, END = (
    "<!-- generated: python -m r1fleet.sizing_table -->",
    "<!-- end of what is generated -->",
)
RAM_GIB = 64.0
MIB_PER_GB = 1e9 / 2**20

# (heading, cards, GiB of host memory where it is not RAM_GIB)
HOSTS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("GTX 1650", ("GTX 1650",), RAM_GIB),
    ("RTX 2060", ("RTX 2060",), RAM_GIB),
    ("RTX 3060 Ti, 3070", ("RTX 3070",), RAM_GIB),
    ("RTX 4060 Ti 8 GB", ("RTX 4060 Ti 8 GB",), RAM_GIB),
    ("RTX 3080 10 GB", ("RTX 3080 10 GB",), RAM_GIB),
    ("GTX 1080 Ti", ("GTX 1080 Ti",), RAM_GIB),
    ("RTX 3060 12 GB", ("RTX 3060 12 GB",), RAM_GIB),
    ("RTX 4070", ("RTX 4070",), RAM_GIB),
    ("Tesla T4", ("T4",), RAM_GIB),
    ("RTX 4060 Ti 16 GB", ("RTX 4060 Ti 16 GB",), RAM_GIB),
    ("RTX 4080", ("RTX 4080",), RAM_GIB),
    ("V100 16 GB", ("V100 16 GB",), RAM_GIB),
    ("L4, A10", ("L4",), RAM_GIB),
    ("RTX 3090", ("RTX 3090",), RAM_GIB),
    ("RTX 4090", ("RTX 4090",), RAM_GIB),
    ("RTX 5090", ("RTX 5090",), RAM_GIB),
    ("V100 32 GB", ("V100 32 GB",), RAM_GIB),
    ("A100 40 GB", ("A100 40 GB",), RAM_GIB),
    ("L40S, RTX A6000", ("L40S",), RAM_GIB),
    ("A100 80 GB", ("A100 80 GB",), RAM_GIB),
    ("H100", ("H100 PCIe",), RAM_GIB),
    ("RTX PRO 6000", ("RTX PRO 6000 Blackwell",), RAM_GIB),
    ("H200", ("H200",), RAM_GIB),
    ("2 x T4", ("T4",) * 2, RAM_GIB),
    ("2 x RTX 3090", ("RTX 3090",) * 2, RAM_GIB),
    ("2 x RTX 4090", ("RTX 4090",) * 2, RAM_GIB),
    ("4 x L4", ("L4",) * 4, RAM_GIB),
    ("8 x H100", ("H100 SXM",) * 8, 1024.0),
    ("GB10 (DGX Spark)", ("GB10",), 128.0),
    ("Apple M2, 16 GB", ("Apple M2",), 16.0),
    ("Apple M4 Pro, 24 GB", ("Apple M4 Pro",), 24.0),
    ("Apple M4 Max, 64 GB", ("Apple M4 Max",), 64.0),
)


@dataclass(frozen=True)
class Popular:
    """What is read everywhere of a size: GB of VRAM at 4 bit and at 16 bit."""

    size: str
    at_4_bit: str
    at_16_bit: str


POPULAR = (
    Popular("1.5b", "-", "6"),
    Popular("7b", "8", "14-16"),
    Popular("8b", "8", "16"),
    Popular("14b", "16", "26-28"),
    Popular("32b", "22", "64"),
    Popular("70b", "48", "140"),
    Popular("671b", "several hosts", "1400"),
)


def document(text: str) -> str:
    """The document with its tables made anew. Raises ValueError when it has no place for them."""
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"no lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n{tables()}\n{END}{tail}"


def tables() -> str:
    """Every tag on every host of HOSTS, one table for each quantisation, then the comparison."""
    found = {name: _rows(cards, ram_gib) for name, cards, ram_gib in HOSTS}
    blocks = [
        f"### {quantisation}\n\n" + "\n".join(_table(found, quantisation))
        for quantisation in ("q4_K_M", "q8_0", "fp16")
    ]
    return "\n\n".join([*blocks, "### Beside the popular figures\n\n" + "\n".join(_compared())])


def _rows(cards: tuple[str, ...], ram_gib: float) -> tuple[str, tuple[Row, ...]]:
    found = fit(described(cards, ram_gib, None, 16), Settings())
    choice = found.sizing.choice
    return (f"**{choice.tag}**, {choice.context}" if choice else "none"), found.rows


def _table(found: dict[str, tuple[str, tuple[Row, ...]]], quantisation: str) -> Iterator[str]:
    models = [model for model in catalog.models() if model.quantisation == quantisation]
    is_default = quantisation == "q4_K_M"
    chosen = ["chosen, context"] if is_default else []
    heads = ["GPU", *chosen, *(model.size for model in models)]
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for name, (choice, rows) in found.items():
        cells = {row.model: _cell(row) for row in rows}
        line = [name, *([choice] if is_default else []), *(cells[model] for model in models)]
        yield f"| {' | '.join(line)} |"


def _cell(row: Row) -> str:
    """Largest context where it sits wholly on the GPUs; else its share on them; else a dash."""
    if row.least is None:
        return "-"
    if row.verdict == "fits":
        cache = "" if row.least.kv_type == "f16" else f" {row.least.kv_type}"
        return f"{row.context}{cache}"
    return f"({row.least.gpu_percent} %)" if row.verdict == "offload" else "(CPU)"


def _compared() -> Iterator[str]:
    yield (
        "| size | popular, 4 bit | ours, 4096 | ours, 16384 | ours, 32768 "
        "| popular, 16 bit | ours, 4096 | ours, 16384 |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for known in POPULAR:
        tags = {model.quantisation: model for model in catalog.models() if model.size == known.size}
        least = [smallest_card_gb(tags["q4_K_M"], context) for context in (4096, 16384, 32768)]
        whole = [smallest_card_gb(tags["fp16"], context) for context in (4096, 16384)]
        figures = (known.size, known.at_4_bit, *least, known.at_16_bit, *whole)
        yield f"| {' | '.join(map(str, figures))} |"


def smallest_card_gb(model: ModelTag, context: int) -> str:
    """GB (10^9 bytes) of the smallest single card that holds a tag with an f16 cache and all that
    is kept free; a card of 671b's size is made up."""
    policy = Policy(tag=model.tag, context_min=context, context_max=context, kv_types=("f16",))
    low, high = 0, 4_000_000
    while high - low > 1:
        middle = (low + high) // 2
        alone = Hardware((Gpu(0, "card", middle, (9, 0)),), ram_mib=0, cores=1)
        low, high = (low, middle) if choose(alone, policy).choice else (middle, high)
    return f"{high / MIB_PER_GB:.1f}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
