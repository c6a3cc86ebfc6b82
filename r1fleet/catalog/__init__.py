"""What is known before any host is asked: models, GPUs by PCI id, drivers by distribution.

The data are the YAML files beside this module, each with its sources, checked when first read.
"""

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from r1fleet.catalog.driver_rows import Drivers, Hex4

Quantisation = Literal["q4_K_M", "q8_0", "fp16"]
Digest = Annotated[
    str,
    Field(pattern=r"^[0-9a-f]{12}([0-9a-f]{52})?$"),
    AfterValidator(lambda digits: f"sha256:{digits}"),
]


def _version(text: object) -> object:
    return tuple(int(part) for part in text.split(".")) if isinstance(text, str) else text


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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

    @property
    def cache_width(self) -> int:
        """Values that one layer keeps per token of context."""
        return self.kv_width or 2 * self.kv_heads * self.head_dim


class ModelTag(_Row):
    """One tag of the library: a model in one quantisation.

    + tag: the shortest name of it, what is pulled unless another is asked for
    + size_bytes: the download, all layers
    + digest: of the manifest now, "sha256:" and 64 hex digits, or the first 12; None if unknown
    + former: digests that the same tag had before
    + attn_v: tensor types (plain, finer) of attn_v where they are not those of the plain mix
    """

    tag: str
    long_name: str
    size: str
    base_model: str
    licence: str
    quantisation: Quantisation
    size_bytes: int
    digest: Digest | None = None
    former: tuple[Digest, ...] = ()
    shape: Shape
    attn_v: tuple[str, str] | None = None

    @property
    def automatic(self) -> bool:
        """Whether it may be chosen without being named: the library's own short tags."""
        return self.tag == self.size


class GpuInfo(_Row):
    """A GPU as nvidia-smi will show it. `vram_mib` is None for memory shared with the host."""

    ids: tuple[Hex4, ...]
    subsystem: Hex4 | None = None
    name: str
    vram_mib: int | None
    compute_capability: Annotated[tuple[int, int], BeforeValidator(_version)]
    measured: bool


@cache
def models() -> tuple[ModelTag, ...]:
    """Every known tag, from the smallest model to the largest; finer quantisations follow."""
    return tuple(
        ModelTag.model_validate(
            {
                "long_name": tag["tag"],
                "size": model["size"],
                "base_model": model["base_model"],
                "licence": model["licence"],
                "shape": model["shape"],
                "attn_v": model.get("attn_v", {}).get(tag["quantisation"]),
                **tag,
            }
        )
        for model in _read("models.yaml")["models"]
        for tag in model["tags"]
    )


@cache
def _by_name() -> dict[str, ModelTag]:
    names = {model.long_name: model for model in models()} | {m.tag: m for m in models()}
    return {**names, "latest": names["8b"]}


def tag_names() -> tuple[str, ...]:
    """Every name that find_tag knows."""
    return tuple(_by_name())


def find_tag(name: str) -> ModelTag:
    """A tag by its short or long name, such as "14b". Raises KeyError for others."""
    return _by_name()[name]


@cache
def _gpus() -> dict[tuple[str, str | None], GpuInfo]:
    rows = [GpuInfo.model_validate(row) for row in _read("gpus.yaml")["gpus"]]
    return {(device, row.subsystem): row for row in rows for device in row.ids}


def gpu(device_id: str, subsystem: str | None = None) -> GpuInfo | None:
    """An NVIDIA GPU by PCI device id and subsystem device id (four hex digits each)."""
    table, device = _gpus(), device_id.lower()
    return table.get((device, (subsystem or "").lower())) or table.get((device, None))


@cache
def drivers() -> Drivers:
    """Branches, flavours and packages of NVIDIA's drivers."""
    return Drivers.model_validate(_read("drivers.yaml"))


def _read(name: str) -> Any:
    # The C loader is ten times as fast; every run reads these files.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (resources.files(__name__) / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=loader)
