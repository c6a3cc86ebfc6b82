"""The shape of a model from the head of its GGUF file: bytes in, shape out. Pure.

Format: ggml's docs/gguf.md, versions 2 and 3, little endian: magic, version, counts, key-value
pairs, tensor descriptions. Only numbers, texts and the lengths of arrays are kept.
"""

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r1fleet.catalog import Shape

MAGIC = b"GGUF"
# Format characters of the scalar value types, by their number.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
# Block bytes and block values of the tensor types, by their number (ggml.h).
_TYPES = {
    **{0: (4, 1), 1: (2, 1), 30: (2, 1), 2: (18, 32), 3: (20, 32), 6: (22, 32), 7: (24, 32)},
    **{8: (34, 32), 10: (84, 256), 11: (110, 256), 12: (144, 256), 13: (176, 256)},
    **{14: (210, 256), 15: (292, 256), 24: (1, 1), 25: (2, 1), 26: (4, 1), 27: (8, 1), 28: (8, 1)},
    **{16: (66, 256), 17: (74, 256), 18: (98, 256), 19: (50, 256), 20: (18, 32), 21: (110, 256)},
    **{22: (82, 256), 23: (136, 256), 29: (56, 256), 34: (54, 256), 35: (66, 256), 39: (17, 32)},
}
MAX_COUNT = 1 << 24  # more keys or tensors than any model has: not a head


class HeadError(ValueError):
    """These bytes are no head of a GGUF file that can be read; the message says why."""


class ShortHead(HeadError):
    """The head goes on beyond these bytes: read more of the file."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the head describes it."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Head:
    """What the head says: its own length, metadata, tensors in file order."""

    length: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @cached_property
    def shape(self) -> Shape:
        """The dimensions that memory follows from. Raises HeadError when one is missing."""
        heads = self._number("attention.head_count")
        embd = self._number("embedding_length")
        head_dim = self._number("attention.key_length", embd // max(heads, 1))
        rank = self._number("attention.kv_lora_rank", 0)
        return Shape(
            arch=self.metadata["general.architecture"],
            layers=self._number("block_count"),
            embd=embd,
            heads=heads,
            kv_heads=self._number("attention.head_count_kv", heads),
            head_dim=head_dim,
            ffn=self._number("feed_forward_length"),
            vocab=self._vocabulary(),
            context_max=self._number("context_length"),
            # MLA: the cache keeps the compressed vector and the rotated part, not K and V.
            kv_width=rank + self._number("rope.dimension_count") if rank else 0,
        )

    def _number(self, key: str, default: int | None = None) -> int:
        arch = self.metadata.get("general.architecture")
        value = self.metadata.get(f"{arch}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise HeadError(f"the head has no usable {arch}.{key}")
        return value

    def _vocabulary(self) -> int:
        counted = self.metadata.get("tokenizer.ggml.tokens")
        return counted if isinstance(counted, int) else self._number("vocab_size")


def read(data: bytes) -> Head:
    """Read a head from the first bytes of a file.

    An array of metadata is kept as its length. Raises ShortHead when the head goes on beyond
    the bytes, HeadError when they are no head.
    """
    reader = _Reader(data)
    if data[:4] != MAGIC[: len(data)]:
        raise HeadError("no GGUF file: it does not begin with GGUF")
    reader.skip(4)
    version = reader.scalar("I")
    if version not in (2, 3):
        raise HeadError(f"GGUF version {version} is not known here")
    tensors, keys = reader.scalar("Q"), reader.scalar("Q")
    if max(tensors, keys) > MAX_COUNT:
        raise HeadError("the counts of the head make no sense")
    metadata = dict(reader.pair() for _ in range(keys))
    rows = tuple(reader.tensor() for _ in range(tensors))
    return Head(reader.at, metadata, rows)


class _Reader:
    """Walks over the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def skip(self, count: int) -> int:
        start, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise ShortHead(f"the head goes on after {len(self.data)} bytes")
        return start

    def scalar(self, kind: str) -> Any:
        start = self.skip(struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{kind}", self.data, start)[0]

    def text(self) -> str:
        length = self.scalar("Q")
        start = self.skip(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def pair(self) -> tuple[str, Any]:
        key = self.text()
        return key, self.value(self.scalar("I"))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise HeadError(f"a value of unknown type {kind}")
        return self.scalar(_SCALARS[kind])

    def array(self) -> int:
        """Passes over an array; returns its length."""
        kind, count = self.scalar("I"), int(self.scalar("Q"))
        if kind in _SCALARS:
            self.skip(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _STRING:
            for _ in range(count):
                self.skip(self.scalar("Q"))
        else:
            raise HeadError(f"an array of unknown type {kind}")
        return count

    def tensor(self) -> Tensor:
        name, dimensions = self.text(), self.scalar("I")
        if dimensions > 4:
            raise HeadError(f"tensor {name!r} has {dimensions} dimensions")
        values = 1
        for _ in range(dimensions):
            values *= self.scalar("Q")
        kind = self.scalar("I")
        self.scalar("Q")  # its offset
        if kind not in _TYPES:
            raise HeadError(f"tensor {name!r} is of unknown type {kind}")
        block_bytes, block_values = _TYPES[kind]
        return Tensor(name, values * block_bytes // block_values)
