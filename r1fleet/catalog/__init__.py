"""What is known before any host is asked: models, GPUs by PCI id, drivers by distribution.

The data are the YAML files beside this module, each with its sources, checked when first read; a
user's own catalog/local.yaml, below the directory a run starts in, is laid on top.
"""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from r1fleet.catalog.driver_rows import Drivers
from r1fleet.catalog.rows import (
    Advised,
    ExtraModel,
    GpuInfo,
    KvType,
    ModelTag,
    OtherModel,
    Quantisation,
    Shape,
    TensorBytes,
)

__all__ = [
    "Advised",
    "ExtraModel",
    "GpuInfo",
    "KvType",
    "ModelTag",
    "OtherModel",
    "Quantisation",
    "Shape",
    "TensorBytes",
]

LOCAL = Path("catalog/local.yaml")


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


@cache
def others() -> dict[str, ModelTag]:
    """Models of the user's own catalogue that are no DeepSeek-R1, by name and tag."""
    rows = (_valid(OtherModel, row) for row in _own().get("others", []))
    return {row.name: row.entry for row in rows}


def find_tag(name: str, model: str = "deepseek-r1") -> ModelTag:
    """A tag by its short or long name, such as "14b", or of another model that the user's own
    catalogue has. Raises KeyError for others."""
    own = others().get(name) or others().get(f"{model}:{name}")
    return own or (_by_name()[name] if is_r1(model) else others()[f"{model}:{name}"])


def is_r1(model: str) -> bool:
    """Whether a name in a registry is DeepSeek-R1's, in whatever namespace."""
    return model.rpartition("/")[2] == "deepseek-r1"


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


def rows_of(name: str) -> Any:
    """A data file beside this module, as it is."""
    return _read(name)


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
    if not isinstance(own, dict) or not set(own) <= {"models", "gpus", "extras", "others"}:
        raise ValueError(f"{LOCAL} holds something else than models, gpus, extras and others")
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
