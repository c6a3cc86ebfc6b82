"""The rows of the catalogue: what each kind of them must hold."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from r1fleet.catalog.driver_rows import Hex4

Quantisation = Literal["q4_K_M", "q8_0", "fp16"]
KvType = Literal["f16", "q8_0", "q4_0"]
Digest = Annotated[
    str,
    Field(pattern=r"^[0-9a-f]{12}([0-9a-f]{52})?$"),
    AfterValidator(lambda digits: f"sha256:{digits}"),
]


def _version(text: object) -> object:
    return tuple(int(part) for part in text.split(".")) if isinstance(text, str) else text


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Shape(_Row):
    """The dimensions of a model that its memory follows from; all counts of values."""

    arch: str
    layers: int
    embd: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context_max: int
    # Values of one layer's cache per token where it is not K and V of kv_heads (MLA).
    kv_width: int = 0
    # Share of the weights that one token reads: of a mixture of experts only some are asked.
    active_share: float = 1.0

    @property
    def cache_width(self) -> int:
        """Values that one layer keeps per token of context."""
        return self.kv_width or 2 * self.kv_heads * self.head_dim


class Advised(_Row):
    """What a host should have for a model by common advice: GB are 10^9 bytes."""

    ram_gb: int
    disk_gb: int
    cores: int


class TensorBytes(_Row):
    """Bytes of a file's tensors as its head tells them: each layer, the output, the embedding."""

    layers: tuple[int, ...]
    output: int
    embedding: int


class ModelTag(_Row):
    """One tag of the library: a model in one quantisation.

    + tag: the shortest name of it, what is pulled unless another is asked for
    + size_bytes: the download, all layers
    + digest: of the manifest now, "sha256:" and 64 hex digits, or the first 12; None if unknown
    + former: digests that the same tag had before
    + tensors: what the head of the file says, for models that are none of ours
    + attn_v: tensor types (plain, finer) of attn_v where they are not those of the plain mix
    """

    tag: str
    long_name: str
    size: str
    base_model: str
    licence: str
    quantisation: Quantisation | Literal["other"]
    size_bytes: int
    digest: Digest | None = None
    tensors: TensorBytes | None = None
    former: tuple[Digest, ...] = ()
    shape: Shape
    attn_v: tuple[str, str] | None = None
    advised: Advised | None = None

    @property
    def automatic(self) -> bool:
        """Whether it may be chosen without being named: the library's own short tags."""
        return self.tag == self.size


class OtherModel(_Row):
    """Any other model of the library, "llama3.1:8b", as `r1fleet shape` reads it."""

    name: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]
    size_bytes: int
    shape: Shape
    tensors: TensorBytes
    digest: Digest | None = None

    @property
    def entry(self) -> ModelTag:
        """The same as an entry that sizing takes."""
        return ModelTag(
            tag=self.name.partition(":")[2],
            long_name=self.name,
            size=self.name,
            base_model=self.name,
            licence="see the model's page",
            quantisation="other",
            size_bytes=self.size_bytes,
            digest=self.digest.removeprefix("sha256:") if self.digest else None,
            shape=self.shape,
            tensors=self.tensors,
        )


class ExtraModel(_Row):
    """A model that may be loaded beside R1; `buffers_mib` is what it takes beyond its file.

    + embeds: it answers with embeddings, not with text
    """

    name: str
    size_bytes: int
    buffers_mib: int
    embeds: bool = True


class GpuInfo(_Row):
    """A GPU as nvidia-smi will show it. `vram_mib` is None for memory shared with the host.

    Apple's have no PCI id. `bandwidth_gb_s` is of the memory, 10^9 bytes per second.
    """

    ids: tuple[Hex4, ...] = ()
    subsystem: Hex4 | None = None
    name: str
    vram_mib: int | None
    compute_capability: Annotated[tuple[int, int] | None, BeforeValidator(_version)]
    bandwidth_gb_s: float | None = None
    vendor: Literal["nvidia", "apple"] = "nvidia"
    measured: bool

    @property
    def unified(self) -> bool:
        return self.vram_mib is None
