"""Where the value of a setting comes from, and what it overrode. Pure over the layers of data."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

HIDDEN = "***"


@dataclass(frozen=True)
class Layer:
    """Data of one place: `name` is "group all", "host", "--data"; `place` a file, where it has
    one."""

    name: str
    data: Mapping[str, Any]
    place: Path | None = None

    def told(self, key: str) -> str:
        """The place in words, with the line where the file assigns the key."""
        if self.place is None:
            return self.name
        line = assigned_at(self.place, key)
        return f"{self.name}, {self.place}{f':{line}' if line else ''}"


@dataclass(frozen=True)
class Origin:
    """A setting's value in effect. `source` says where it was set; `overrode` has what stood
    below it there and would hold without it, the nearest first, as (value, source)."""

    name: str
    value: Any
    source: str
    overrode: tuple[tuple[Any, str], ...] = ()


def origins(
    defaults: Mapping[str, Any], layers: Sequence[Layer], effective: Mapping[str, Any]
) -> Iterator[Origin]:
    """Every setting with its origin, in the order of the defaults.

    + layers: the lowest first, as pyinfra looks keys up
    + effective: the values of the checked settings, which may differ from what was written
    """
    for name, default in defaults.items():
        found = [(layer.data[name], layer.told(name)) for layer in layers if name in layer.data]
        found = [(default, "default"), *found]
        # The file of all defaults sets every key: what it merely repeats is no origin.
        stack = [found[0]]
        for value, source in found[1:]:
            if not _same(value, stack[-1][0]):
                stack.append((value, source))
        (value, source), below = stack[-1], tuple(reversed(stack[:-1]))
        actual = effective[name]
        if not _same(value, actual) and len(stack) == 1:
            source = "worked out from other settings"
        told = tuple((without_secrets(name, value), place) for value, place in below)
        yield Origin(name, without_secrets(name, actual), source, told)


def without_secrets(name: str, value: Any) -> Any:
    """A setting's value as it may be shown: what can be a password in it is not."""
    if name == "extra_env" and isinstance(value, Mapping):
        return dict.fromkeys(value, HIDDEN)
    if not isinstance(value, str):
        return value
    if name == "registry_login_command" or value.startswith("command:"):
        return HIDDEN  # it may ask somebody with a password of its own
    return re.sub(r"://[^/]*@", f"://{HIDDEN}@", value)


def assigned_at(file: Path, key: str) -> int | None:
    """The line at which a Python file assigns a name, or mentions it as a key; None: nowhere."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    found = (node for node in ast.walk(tree) if _names(node, key))
    return max((node.lineno for node in found), default=None)


def file_of(group: str, key_folders: Iterable[Path]) -> Path | None:
    """The group_data file of a group; of several the last, which is the one that wins."""
    files = [folder / f"{group}.py" for folder in key_folders]
    return next((file for file in reversed(files) if file.is_file()), None)


def _names(node: ast.AST, key: str) -> TypeGuard[ast.stmt | ast.expr]:
    if isinstance(node, ast.Assign):
        return any(isinstance(one, ast.Name) and one.id == key for one in node.targets)
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and node.target.id == key
    return isinstance(node, ast.Constant) and node.value == key


def _same(one: Any, other: Any) -> bool:
    """Lists of an inventory are tuples in the settings."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return list(one) == list(other)
    return bool(one == other)
