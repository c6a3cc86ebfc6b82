"""The lock file: the digests that the wanted tags are to have. Pure, but for reading the file.

It lies beside group_data/, where a run starts, and is kept with it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE = Path("models.lock.yaml")
SCHEMA = 1
HEAD = """\
# The models of this fleet by their manifest digests: tags move, a digest does not. Written by
# `r1fleet lock`; a host for which a registry has another digest fails before anything changes.
"""
_NAME = re.compile(r"[A-Za-z0-9._/-]+:[A-Za-z0-9._-]+")


class LockError(ValueError):
    """The lock file cannot be used; the message says why, in one line."""


class Locked(BaseModel):
    """One model. `source` is where the digest was read, `at` when it was first seen there."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    source: str
    at: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)

    schema_: Literal[1] = Field(alias="schema")
    models: dict[str, Locked]


def read(path: Path = FILE) -> dict[str, Locked]:
    """What is locked, by name and tag; {} where there is no lock file. Raises LockError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise LockError(f"{path}: {error}; mend it, or remove it and run `r1fleet lock`") from error


def parse(text: str) -> dict[str, Locked]:
    """Read a lock file's text. Raises LockError."""
    try:
        loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise LockError(f"it is not YAML: {' '.join(str(error).split())}") from None
    schema = loaded.get("schema") if isinstance(loaded, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise LockError(f"it has schema {schema}, this r1fleet knows {SCHEMA}: take a newer one")
    try:
        models = _File.model_validate(loaded).models
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise LockError(f"{place or 'the file'}: {fault['msg']}") from None
    for name in models:
        if not _NAME.fullmatch(name):
            raise LockError(f"{name!r} names no model with its tag")
    return models


def text(models: Mapping[str, Locked]) -> str:
    """The lock file, sorted by name."""
    data = {"schema": SCHEMA, "models": {key: models[key].model_dump() for key in sorted(models)}}
    return HEAD + yaml.safe_dump(data, sort_keys=False, width=120)


def merged(
    before: Mapping[str, Locked], found: Mapping[str, Locked], *, keep_others: bool
) -> dict[str, Locked]:
    """The new lock. What is as it was keeps its date and source, so that the file stays the same.

    + keep_others: what no looked-at host wants stays, because not all hosts could be looked at
    """
    others = {name: entry for name, entry in before.items() if keep_others and name not in found}
    same = {
        name: before[name] if name in before and before[name].digest == entry.digest else entry
        for name, entry in found.items()
    }
    return others | same


def differences(before: Mapping[str, Locked], now: Mapping[str, Locked]) -> Iterable[str]:
    """What changed, a line for each, for people."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old is None and new is not None:
            yield f"{name}: {new.digest}"
        elif new is None:
            yield f"{name}: no longer wanted, taken out"
        elif old is not None and old.digest != new.digest:
            yield f"{name}: {new.digest}, was {old.digest}"
