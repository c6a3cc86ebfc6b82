"""The catalogue: whole, consistent, and quick to read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1fleet import catalog


def test_every_size_and_quantisation_is_there() -> None:
    found = {(model.size, model.quantisation) for model in catalog.models()}
    sizes = ("1.5b", "7b", "8b", "14b", "32b", "70b", "671b")
    assert {(size, quant) for size in sizes for quant in ("q4_K_M", "q8_0", "fp16")} <= found
    automatic = [model.tag for model in catalog.models() if model.automatic]
    assert automatic == list(sizes)
    assert all(catalog.find_tag(tag).quantisation == "q4_K_M" for tag in automatic)


def test_models_come_from_small_to_large() -> None:
    four_bit = [m.size_bytes for m in catalog.models() if m.automatic]
    assert four_bit == sorted(four_bit)


def test_tags_are_found_by_short_and_long_name() -> None:
    short = catalog.find_tag("14b")
    assert short is catalog.find_tag("14b-qwen-distill-q4_K_M")
    assert (short.base_model, short.size_bytes) == ("Qwen2.5-14B", 8988112209)
    assert catalog.find_tag("latest").tag == "8b"
    assert "zero" not in " ".join(catalog.tag_names())
    with pytest.raises(KeyError):
        catalog.find_tag("13b")


def test_digests_are_whole_or_the_first_twelve_digits() -> None:
    for model in catalog.models():
        for digest in (model.digest, *model.former):
            assert digest is None or re.fullmatch("sha256:[0-9a-f]{12}([0-9a-f]{52})?", digest)
    assert catalog.find_tag("70b").digest == "sha256:d37b54d01a76"


def test_cache_per_token_is_the_published_one() -> None:
    bytes_per_token = {
        model.tag: 2 * model.shape.layers * model.shape.cache_width
        for model in catalog.models()
        if model.automatic
    }
    assert bytes_per_token == {
        "1.5b": 28672,
        "7b": 57344,
        "8b": 147456,
        "14b": 196608,
        "32b": 262144,
        "70b": 327680,
        "671b": 70272,
    }


def test_gpus_by_device_and_subsystem() -> None:
    found = catalog.gpu("1eb8", "12a2")
    assert found
    assert (found.name, found.vram_mib, found.compute_capability) == ("Tesla T4", 15360, (7, 5))
    memory = [catalog.gpu("2bb3", sub) for sub in ("204d", "227a", "ffff", None)]
    assert [row.vram_mib for row in memory if row] == [48935, 73000, 48935, 48935]
    assert catalog.gpu("2B85") is not None
    assert catalog.gpu("ffff") is None
    unified = catalog.gpu("2e12")
    assert unified
    assert unified.vram_mib is None


def test_no_id_stands_twice() -> None:
    rows = catalog._read("gpus.yaml")["gpus"]
    keys = [(device, row.get("subsystem")) for row in rows for device in row.get("ids", ())]
    assert len(keys) == len(set(keys)) == len(catalog._gpus())


@pytest.mark.parametrize(
    ("device", "least"), [("1b06", 570), ("1db5", 550), ("1eb8", 550), ("2b85", 570), ("3182", 580)]
)
def test_least_driver_branch_of_a_gpu(device: str, least: int) -> None:
    assert catalog.drivers().flavour(device).first_branch == least


@pytest.mark.parametrize(
    ("device", "flavour", "last_branch", "open_only"),
    [
        ("118a", "legacy", 470, False),
        ("1b06", "proprietary", 580, False),
        ("1db4", "proprietary", 580, False),
        ("1e02", "open", None, False),
        ("1eb8", "open", None, False),
        ("2b85", "open", None, True),
    ],
)
def test_flavour_by_device(
    device: str, flavour: str, last_branch: int | None, open_only: bool
) -> None:
    row = catalog.drivers().flavour(device)
    assert (row.flavour, row.last_branch, row.open_only) == (flavour, last_branch, open_only)


def test_every_gpu_of_the_table_has_a_flavour_that_serves_it() -> None:
    for row in catalog._gpus().values():
        flavours = {catalog.drivers().flavour(device).flavour for device in row.ids}
        assert flavours == {"open" if row.compute_capability >= (7, 5) else "proprietary"}


def test_ways_of_a_distribution() -> None:
    drivers = catalog.drivers()
    for version in ("12", "13"):
        first, second = drivers.ways("debian", version)
        assert (first.origin, second.origin) == ("nvidia", "distro")
    assert [way.repository for way in drivers.ways("rocky", "9.5")] == ["rhel9"]
    assert drivers.ways("debian", "11") == drivers.ways("ubuntu", "22.10") == ()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a catalog/local.yaml that is read instead of the directory's own."""
    caches = (catalog._own, catalog.models, catalog.gpus, catalog._gpus, catalog.extras)
    path = tmp_path / "local.yaml"
    monkeypatch.setattr(catalog, "LOCAL", path)
    for cached in (*caches, catalog._by_name):
        cached.cache_clear()
    yield path
    for cached in (*caches, catalog._by_name):
        cached.cache_clear()


OWN = """
models:
  - size: 3b
    base_model: Own
    licence: MIT
    shape: {arch: llama, layers: 28, embd: 3072, heads: 24, kv_heads: 8, head_dim: 128,
            ffn: 8192, vocab: 128256, context_max: 131072}
    tags: [{tag: 3b, quantisation: q4_K_M, size_bytes: 2019000000}]
gpus:
  - {ids: ["2204"], name: Modded 3090, vram_mib: 49152, compute_capability: "8.6", measured: true}
extras:
  - {name: own-embed, size_bytes: 1000, buffers_mib: 5}
"""


def test_a_users_own_rows_lie_on_top(own: Path) -> None:
    own.write_text(OWN)
    assert catalog.find_tag("3b").base_model == "Own"
    assert "3b" in catalog.sizes()
    card = catalog.gpu("2204")
    assert card
    assert (card.name, card.vram_mib) == ("Modded 3090", 49152)
    assert "own-embed" in catalog.extra_names()
    assert catalog.find_tag("14b").size_bytes == 8988112209


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models: [", "is not YAML"),
        ("[1, 2]", "something else"),
        ("drivers: {}", "something else"),
        (OWN.replace("vram_mib: 49152", "vram_mib: much"), "'Modded 3090': vram_mib"),
        (OWN.replace("q4_K_M", "q2_K"), "'3b': quantisation"),
    ],
)
def test_a_fault_in_the_users_own_rows_is_one_line(own: Path, text: str, fault: str) -> None:
    own.write_text(text)
    with pytest.raises(ValueError, match=fault) as raised:
        catalog.models(), catalog.gpus()
    assert "\n" not in str(raised.value)


def test_gpus_have_a_bandwidth_and_models_what_is_advised() -> None:
    assert all(gpu.bandwidth_gb_s for gpu in catalog.gpus())
    assert all(model.advised for model in catalog.models())
    names = {gpu.name for gpu in catalog.gpus()}
    assert {"GeForce GTX 1650", "GeForce RTX 2060", "Apple M2", "GB10 (DGX Spark)"} <= names
