"""Settings as text: faults as lines for people, and the defaults as group_data/all.py."""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from r1fleet.settings_check import Bad

# Their values may hold a password, so a fault names the key alone. URLs are among them: what is
# wrong with one may be just that.
_SECRET = (
    *("https_proxy", "extra_env", "registry_login_command", "registry_login_file"),
    *("model_sources", "registry_url", "engine_url", "mirror_url", "driver_repository_url"),
    *("gateway_tokens", "gateway_url", "sudo_password"),
)
_KINDS = {
    "int": ("is not a whole number", "give a whole number"),
    "float": ("is not a number", "give a number"),
    "bool": ("is neither true nor false", "give True or False"),
    "string": ("is not a text", "give a text"),
    "dict": ("is not a mapping", 'give a mapping such as {"NAME": "value"}'),
}


def belongs_to_pyinfra(key: str) -> bool:
    """Whether a key of inventory data is pyinfra's own: global arguments, connector settings."""
    return key.startswith("_") or key in _connector_keys()


@cache
def _connector_keys() -> frozenset[str]:
    # Not at the top: pyinfra takes a while to import, and only inventories need it.
    from pyinfra.api.connectors import get_all_connectors  # noqa: PLC0415

    connectors = get_all_connectors().values()  # type: ignore[no-untyped-call]
    return frozenset(key for connector in connectors for key in connector.data_cls.__annotations__)


def error_lines(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[str]:
    """A line for each fault: `key: what is wrong, got X; what to do`."""
    # A value in the wrong place of a mapping or list reports each place: the first says enough.
    faults: dict[str, str] = {}
    for fault in error.errors():
        faults.setdefault(str(fault["loc"][0]), _line(fault, fields))
    return list(faults.values())


def _line(fault: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    key = str(fault["loc"][0])
    if key not in fields:
        near = get_close_matches(key, fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see group_data/all.py for all of them"
        return f"unknown setting {key!r}, {hint}"
    what, do = _fault(fault, fields[key].default)
    got = "" if key in _SECRET else f", got {_short(fault['input'])}"
    return f"{key}: {what}{got}; {do}"


def _fault(fault: ErrorDetails, default: object) -> tuple[str, str]:
    context = fault.get("ctx", {})
    kind = fault["type"].partition("_")[0]
    if isinstance(context.get("error"), Bad):
        return context["error"].what, context["error"].do
    if kind in ("greater", "less"):
        word = "least" if kind == "greater" else "most"
        return "is out of range", f"use at {word} {next(iter(context.values()))}"
    if kind == "literal":
        return "is not one of the choices", f"use {context['expected']}"
    what, do = _KINDS.get(kind, (fault["msg"], "look at the default in group_data/all.py"))
    has_example = default not in (None, {}) and kind in ("int", "float", "string")
    return what, f"{do} such as {default!r}" if has_example else do


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def merged(names: list[str]) -> str:
    """Hosts that share a fault: "t4, duo and 3 more"."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def group_data(model: type[BaseModel], headings: Mapping[str, str]) -> str:
    """The defaults as a Python file, a line for each setting."""
    return "\n".join(_group_data_lines(model, headings)) + "\n"


def _group_data_lines(model: type[BaseModel], headings: Mapping[str, str]) -> Iterator[str]:
    yield '"""Every setting with its default. Generated: python -m r1fleet.settings"""'
    for name, field in model.model_fields.items():
        if name in headings:
            yield f"\n# {headings[name]}"
        # JSON's quotes are those of ruff, but it has other words for None and False.
        is_plain = isinstance(field.default, str | tuple)
        value = json.dumps(field.default) if is_plain else repr(field.default)
        yield f"{name} = {value}  # {field.description}"
