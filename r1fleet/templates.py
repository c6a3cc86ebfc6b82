"""Rendering of templates/*.j2: strict, so that a missing value never becomes an empty line."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

# A link to ../templates, which an installed wheel has as a folder.
_PLACE = Path(__file__).parent / "templates"


def env_quote(value: str) -> str:
    """A value for a systemd EnvironmentFile, in double quotes (systemd.exec(5)).

    Raises ValueError for control characters, which that format cannot carry.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("a control character cannot stand in an environment file")
    for char in ("\\", '"', "$", "`"):
        value = value.replace(char, "\\" + char)
    return f'"{value}"'


def _python(value: object) -> str:
    """A value of checked names as Python, with the quotes of its formatters."""
    return repr(value).replace("'", '"')


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(_PLACE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # plain text files; values are quoted by their own filters
    )
    environment.filters["env_quote"] = env_quote
    environment.filters["python"] = _python
    return environment


def render_html(name: str, **values: object) -> str:
    """The same for a page: every value is escaped."""
    environment = _environment().overlay(autoescape=True)
    return environment.get_template(f"{name}.j2").render(**values)


def render(name: str, **values: object) -> str:
    """The text of `templates/NAME.j2`. Raises jinja2.UndefinedError when a value is missing."""
    return _environment().get_template(f"{name}.j2").render(**values)
