"""What is known before any host is asked: models, GPUs by PCI id, drivers by distribution.

The data are the YAML files beside this module, each with its sources, checked when first read; a
user's own catalog/local.yaml, below the directory a run starts in, is laid on top.
"""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from r1fleet.catalog.driver_rows import Drivers, Hex4

Quantisation = Literal["q4_K_M", "q8_0", "fp16"]
KvType = Literal["f16", "q8_0", "q4_0"]
LOCAL = Path("catalog/local.yaml")
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
    advised: Advised | None = None

    @property
    def automatic(self) -> bool:
        """Whether it may be chosen without being named: the library's own short tags."""
        return self.tag == self.size


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


@cache
def models() -> tuple[ModelTag, ...]:
    """Every known tag, from the smallest model to the largest; finer quantisations follow."""
    return tuple(
        _valid(
            ModelTag,
            {
                "long_name": tag["tag"],
                "size": model["size"],
                "base_model": model["base_model"],
                "licence": model["licence"],
                "shape": model["shape"],
                "advised": model.get("advised"),
                "attn_v": model.get("attn_v", {}).get(tag["quantisation"]),
                **tag,
            },
        )
        for model in _rows("models")
        for tag in model["tags"]
    )


def sizes() -> tuple[str, ...]:
    """Every size of model, from small to large, such as "14b"."""
    return tuple(dict.fromkeys(model.size for model in models()))


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
def extras() -> dict[str, ExtraModel]:
    """Models that may be loaded beside R1, by name: small ones of other kinds, and R1's tags."""
    return {row["name"]: _valid(ExtraModel, row) for row in _rows("extras")}


def extra_names() -> tuple[str, ...]:
    """Every name that extra_models may hold."""
    return (*extras(), *(f"deepseek-r1:{name}" for name in tag_names()))


@cache
def gpus() -> tuple[GpuInfo, ...]:
    """Every known GPU; those with a subsystem id are one memory size of a shared device id."""
    return tuple(_valid(GpuInfo, row) for row in _rows("gpus"))


@cache
def _gpus() -> dict[tuple[str, str | None], GpuInfo]:
    return {(device, row.subsystem): row for row in gpus() for device in row.ids}


def gpu(device_id: str, subsystem: str | None = None) -> GpuInfo | None:
    """An NVIDIA GPU by PCI device id and subsystem device id (four hex digits each)."""
    table, device = _gpus(), device_id.lower()
    return table.get((device, (subsystem or "").lower())) or table.get((device, None))


@cache
def drivers() -> Drivers:
    """Branches, flavours and packages of NVIDIA's drivers."""
    return Drivers.model_validate(_read("drivers.yaml"))


def _rows(kind: str) -> list[Any]:
    """The rows of a kind; the user's own come last, and win where both name the same."""
    own = _own().get(kind, [])
    return [*_read(f"{kind}.yaml")[kind], *own]


@cache
def _own() -> dict[str, Any]:
    """The user's own rows. Raises ValueError, in one line, for what is no catalogue."""
    if not LOCAL.is_file():
        return {}
    try:
        own = yaml.safe_load(LOCAL.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{LOCAL} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(own, dict) or not set(own) <= {"models", "gpus", "extras"}:
        raise ValueError(f"{LOCAL} holds something else than models, gpus and extras")
    return own


_R = TypeVar("_R", bound=BaseModel)


def _valid(kind: type[_R], row: Any) -> _R:
    """A row, checked. Raises ValueError that names the row and its first fault, in one line."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        name = row.get("tag") or row.get("name") if isinstance(row, dict) else row
        raise ValueError(f"catalogue, {name!r}: {where}: {fault['msg']}") from None


def _read(name: str) -> Any:
    # The C loader is ten times as fast; every run reads these files.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (resources.files(__name__) / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=loader)
