"""Sparse GGUF files with the true tensor shapes and types of every deepseek-r1 tag.

They hold no weights: a header, then a hole of the true size. llama.cpp computes from them what
it would place where (its `--fit` code reads shapes only), which is what the simulated GPUs show.

Shapes: config.json of the published models. Types: the mix of llama.cpp's quantisation Q4_K_M.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

HEAD_DIM = 128
CONTEXT_MAX = 131072

# Bytes of metadata in the published files: almost all of it is the vocabulary, which these files
# leave out. Added to the file size, so that it equals the catalogue's.
_VOCABULARY_BYTES = {"qwen2": 5_960_000, "qwen3": 5_960_000, "llama": 7_850_000}


@dataclass(frozen=True)
class Shape:
    """One model architecture. `value_type` is the Q4_K_M type of attn_v where it is not Q6_K."""

    arch: str
    parameters: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    rope_base: float
    value_type: Type = Type.Q4_K
    value_type_more: Type = Type.Q6_K


@dataclass(frozen=True)
class Tensor:
    """A tensor as GGUF describes it; `shape` has the row length first (ggml's order)."""

    name: str
    shape: tuple[int, ...]
    type: Type

    @property
    def size_bytes(self) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.type]
        count = 1
        for length in self.shape:
            count *= length
        return count // block * block_bytes


SHAPES: dict[str, Shape] = {
    "1.5b": Shape("qwen2", "1.8B", 28, 1536, 12, 2, 8960, 151936, 1e4),
    "7b": Shape("qwen2", "7.6B", 28, 3584, 28, 4, 18944, 152064, 1e4),
    # The publisher kept attn_v of this one in F16.
    "8b": Shape("qwen3", "8.2B", 36, 4096, 32, 8, 12288, 151936, 1e6, Type.F16, Type.F16),
    "8b-llama": Shape("llama", "8.0B", 32, 4096, 32, 8, 14336, 128256, 5e5),
    "14b": Shape("qwen2", "14.8B", 48, 5120, 40, 8, 13824, 152064, 1e6),
    "32b": Shape("qwen2", "32.8B", 64, 5120, 40, 8, 27648, 152064, 1e6),
    # With 8 query heads on each value head llama.cpp spends one more bit on attn_v.
    "70b": Shape("llama", "70.6B", 80, 8192, 64, 8, 28672, 128256, 5e5, Type.Q5_K),
}
QUANTISATIONS = ("q4_K_M", "q8_0", "fp16")


def more_bits(layer: int, layers: int) -> bool:
    """Whether Q4_K_M stores attn_v and ffn_down of this layer with more bits (llama-quant.cpp)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensors(shape: Shape, quantisation: str) -> Iterator[Tensor]:
    """Every tensor of the model, in file order."""
    flat = {"q8_0": Type.Q8_0, "fp16": Type.F16}.get(quantisation)

    def weight(name: str, shape: tuple[int, int], mixed: Type = Type.Q4_K) -> Tensor:
        # What the publisher kept in F16 stays so in every quantisation.
        kept = mixed if flat is None or mixed is Type.F16 else flat
        return Tensor(f"{name}.weight", shape, kept)

    def vector(name: str, length: int) -> Tensor:
        return Tensor(name, (length,), Type.F32)

    width, ffn, kv = shape.embedding, shape.feed_forward, shape.kv_heads * HEAD_DIM
    query = shape.heads * HEAD_DIM
    yield weight("token_embd", (width, shape.vocabulary))
    if shape.arch == "llama":
        yield vector("rope_freqs.weight", HEAD_DIM // 2)
    for layer in range(shape.layers):
        block, more = f"blk.{layer}.", more_bits(layer, shape.layers)
        yield vector(f"{block}attn_norm.weight", width)
        yield weight(f"{block}attn_q", (width, query))
        yield weight(f"{block}attn_k", (width, kv))
        value = shape.value_type_more if more else shape.value_type
        yield weight(f"{block}attn_v", (width, kv), value)
        yield weight(f"{block}attn_output", (query, width))
        if shape.arch == "qwen2":
            for name, length in (("attn_q", query), ("attn_k", kv), ("attn_v", kv)):
                yield vector(f"{block}{name}.bias", length)
        if shape.arch == "qwen3":
            yield vector(f"{block}attn_q_norm.weight", HEAD_DIM)
            yield vector(f"{block}attn_k_norm.weight", HEAD_DIM)
        yield vector(f"{block}ffn_norm.weight", width)
        yield weight(f"{block}ffn_gate", (width, ffn))
        yield weight(f"{block}ffn_up", (width, ffn))
        yield weight(f"{block}ffn_down", (ffn, width), Type.Q6_K if more else Type.Q4_K)
    yield vector("output_norm.weight", width)
    yield weight("output", (width, shape.vocabulary), Type.Q6_K)


def size_bytes(shape: Shape, quantisation: str) -> int:
    """Size of the published model file: tensors and vocabulary."""
    weights = sum(tensor.size_bytes for tensor in tensors(shape, quantisation))
    return weights + _VOCABULARY_BYTES[shape.arch]


def file_name(name: str, quantisation: str) -> str:
    """Name of the sparse file, also the value of `r1lab.shape`: "14b", "14b-q8_0"."""
    return name if quantisation == "q4_K_M" else f"{name}-{quantisation}"


def write(path: Path, shape: Shape, quantisation: str) -> None:
    """Write the sparse file; it takes some kB on disk."""
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_name(f"DeepSeek R1 {shape.parameters} (shape only)")
    writer.add_block_count(shape.layers)
    writer.add_context_length(CONTEXT_MAX)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    for tensor in tensors(shape, quantisation):
        writer.add_tensor_info(
            tensor.name,
            tuple(reversed(tensor.shape)),
            np.dtype(np.float16),
            tensor.size_bytes,
            raw_dtype=tensor.type,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size_bytes(shape, quantisation))


def write_all(folder: Path) -> None:
    """Write every tag and quantisation as `<name>.gguf`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES.items():
        for quantisation in QUANTISATIONS:
            write(folder / f"{file_name(name, quantisation)}.gguf", shape, quantisation)
