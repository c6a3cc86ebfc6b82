"""The head of a known tag's GGUF file, without its weights: what llama.cpp plans memory from. Pure.

Format: ggml's docs/gguf.md, version 3, little endian. Tensors and their types are those that
memory.py counts; the vocabulary's texts are left out, only its size is told.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from r1fleet.catalog import ModelTag
from r1fleet.memory import TENSOR_TYPES, is_finer, tensor_bytes

ALIGNMENT = 32
# Numbers of the tensor types (ggml.h).
_TYPES = {"F32": 0, "F16": 1, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
_UINT32, _FLOAT32, _STRING = 4, 6, 8
_KNOWN = ("qwen2", "qwen3", "llama")


@dataclass(frozen=True)
class Tensor:
    """A tensor; the length of a row comes first."""

    name: str
    lengths: tuple[int, ...]
    type: str

    @property
    def size_bytes(self) -> int:
        values = 1
        for length in self.lengths:
            values *= length
        return tensor_bytes(values, self.type)


@dataclass(frozen=True)
class HeadFile:
    """The first bytes of a file, and how long the whole of it is."""

    head: bytes
    size_bytes: int


def head_file(model: ModelTag) -> HeadFile | None:
    """The head of a tag; None for an architecture whose tensors are not known here (671b)."""
    if model.shape.arch not in _KNOWN:
        return None
    pairs, rows, offset = list(_pairs(model)), [], 0
    for tensor in tensors(model):
        rows.append(_row(tensor, offset))
        offset += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(pairs)) + b"".join(pairs + rows)
    head += bytes(-len(head) % ALIGNMENT)
    return HeadFile(head, len(head) + offset)


def tensors(model: ModelTag) -> Iterator[Tensor]:
    """Every tensor of a model, in file order, with its type in the tag's quantisation."""
    shape = model.shape
    plain, finer = TENSOR_TYPES[model.quantisation]
    v_plain, v_finer = model.attn_v or (plain, finer)
    width, query, kv = shape.embd, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Tensor("token_embd.weight", (width, shape.vocab), plain)
    if shape.arch == "llama":
        yield Tensor("rope_freqs.weight", (shape.head_dim // 2,), "F32")
    for index in range(shape.layers):
        block, fine = f"blk.{index}.", is_finer(model, index)
        yield Tensor(f"{block}attn_norm.weight", (width,), "F32")
        yield Tensor(f"{block}attn_q.weight", (width, query), plain)
        yield Tensor(f"{block}attn_k.weight", (width, kv), plain)
        yield Tensor(f"{block}attn_v.weight", (width, kv), v_finer if fine else v_plain)
        yield Tensor(f"{block}attn_output.weight", (query, width), plain)
        for name, length in _extras(model, query, kv):
            yield Tensor(block + name, (length,), "F32")
        yield Tensor(f"{block}ffn_norm.weight", (width,), "F32")
        yield Tensor(f"{block}ffn_gate.weight", (width, shape.ffn), plain)
        yield Tensor(f"{block}ffn_up.weight", (width, shape.ffn), plain)
        yield Tensor(f"{block}ffn_down.weight", (shape.ffn, width), finer if fine else plain)
    yield Tensor("output_norm.weight", (width,), "F32")
    yield Tensor("output.weight", (width, shape.vocab), finer)


def _extras(model: ModelTag, query: int, kv: int) -> tuple[tuple[str, int], ...]:
    """What an architecture has beside the rest: biases, or norms of queries and keys."""
    if model.shape.arch == "qwen2":
        return (("attn_q.bias", query), ("attn_k.bias", kv), ("attn_v.bias", kv))
    if model.shape.arch == "qwen3":
        head = model.shape.head_dim
        return (("attn_q_norm.weight", head), ("attn_k_norm.weight", head))
    return ()


def _pairs(model: ModelTag) -> Iterator[bytes]:
    shape = model.shape
    yield _pair("general.architecture", _STRING, _text(shape.arch))
    yield _pair("general.name", _STRING, _text(f"{model.long_name}, head only"))
    for key, number in (
        ("block_count", shape.layers),
        ("context_length", shape.context_max),
        ("embedding_length", shape.embd),
        ("feed_forward_length", shape.ffn),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("vocab_size", shape.vocab),
    ):
        yield _pair(f"{shape.arch}.{key}", _UINT32, struct.pack("<I", number))
    # Needed by the loader, without weight for memory.
    for key, value in (("attention.layer_norm_rms_epsilon", 1e-6), ("rope.freq_base", 1e6)):
        yield _pair(f"{shape.arch}.{key}", _FLOAT32, struct.pack("<f", value))
    yield _pair("tokenizer.ggml.model", _STRING, _text("no_vocab"))


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _row(tensor: Tensor, offset: int) -> bytes:
    lengths = struct.pack(f"<I{len(tensor.lengths)}Q", len(tensor.lengths), *tensor.lengths)
    return _text(tensor.name) + lengths + struct.pack("<IQ", _TYPES[tensor.type], offset)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
