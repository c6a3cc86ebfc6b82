"""The head of a GGUF file: the shapes of every tag, and anything else that bytes may be."""

from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.engine import shapes
from r1fleet import catalog, gguf_head, memory

NAMES = [(name, quant) for name in shapes.SHAPES for quant in shapes.QUANTISATIONS]


def head_of(folder: Path, name: str, quantisation: str) -> bytes:
    path = folder / f"{name}-{quantisation}.gguf"
    shapes.write(path, shapes.SHAPES[name], quantisation)
    with path.open("rb") as file:
        return file.read(1 << 20)


@pytest.mark.parametrize(("name", "quantisation"), NAMES)
def test_the_shape_of_every_tag_is_the_catalogue_s(
    tmp_path: Path, name: str, quantisation: str
) -> None:
    head = gguf_head.read(head_of(tmp_path, name, quantisation))
    model = next(m for m in catalog.models() if (m.size, m.quantisation) == (name, quantisation))
    assert head.shape == model.shape
    known = memory.weights(model)
    assert abs(head.weights_bytes - sum(known.blocks) - known.embedding) < 1 << 20


@pytest.fixture(scope="module")
def head_7b(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return head_of(tmp_path_factory.mktemp("heads"), "7b", "q4_K_M")


def test_a_head_that_goes_on_asks_for_more(head_7b: bytes) -> None:
    whole = gguf_head.read(head_7b)
    assert gguf_head.read(head_7b[: whole.length]).shape == whole.shape
    for length in (0, 3, 4, 20, 100, whole.length - 1):
        with pytest.raises(gguf_head.ShortHead):
            gguf_head.read(head_7b[:length])


def test_arrays_are_passed_over_and_the_vocabulary_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_token_list(["a", "bc", ""])
    writer.add_array("scores", [0.5, 1.5])
    for key, value in (("block_count", 2), ("embedding_length", 64), ("context_length", 4096)):
        writer.add_uint32(f"deepseek2.{key}", value)
    for key, value in (("head_count", 4), ("head_count_kv", 1), ("kv_lora_rank", 512)):
        writer.add_uint32(f"deepseek2.attention.{key}", value)
    writer.add_uint32("deepseek2.rope.dimension_count", 64)
    writer.add_uint32("deepseek2.feed_forward_length", 128)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    shape = gguf_head.read(path.read_bytes()).shape
    assert (shape.vocab, shape.cache_width, shape.head_dim) == (3, 576, 16)


def test_a_head_without_the_dimensions_says_which(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(gguf_head.HeadError, match=r"llama\.attention\.head_count"):
        _ = gguf_head.read(path.read_bytes()).shape


def test_the_block_sizes_are_those_of_ggml() -> None:
    for number, (block_bytes, block_values) in gguf_head._TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert gguf.GGML_QUANT_SIZES[kind] == (block_values, block_bytes)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"GGUF\3\0\0\0" + rest))
def test_any_bytes_are_a_head_or_a_reason(data: bytes) -> None:
    with suppress(gguf_head.HeadError):
        assert gguf_head.read(data).length <= len(data)


@given(st.data())
def test_a_damaged_head_never_crashes(head_7b: bytes, data: st.DataObject) -> None:
    damaged = bytearray(head_7b[:4000])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(gguf_head.HeadError):
        assert gguf_head.read(bytes(damaged)).length <= len(damaged)
