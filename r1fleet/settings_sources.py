"""Checks of where models come from, and the registry's login."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from r1fleet import secret_command
from r1fleet.model.manifest import ModelSource
from r1fleet.settings_check import TAGGED_MODEL, Bad

KINDS = ("file", "path", "url")


class LoginError(ValueError):
    """There is no login where one was named; the message never holds any of it."""


def model_sources(value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """GGUF files by the name of the model that is made of each."""
    example = '{"deepseek-r1:14b": {"url": "https://...", "sha256": "..."}}'
    for name, source in value.items():
        if not TAGGED_MODEL.fullmatch(name):
            raise Bad(f"names no tag in {name!r}", 'use names such as "deepseek-r1:14b"')
        kinds = [kind for kind in KINDS if kind in source]
        if len(kinds) != 1 or set(source) != {kinds[0], "sha256"}:
            raise Bad(f"has no file, path or url with its sha256 for {name}", f"write {example}")
        try:
            of(source)
        except ValueError:
            raise Bad(
                f"has an unusable {kinds[0]} or sha256 for {name}", f"write {example}"
            ) from None
    return value


def of(source: Mapping[str, str]) -> ModelSource:
    """One source of the setting."""
    kind = next(kind for kind in KINDS if kind in source)
    return ModelSource(kind, source[kind], source["sha256"])  # type: ignore[arg-type]


def authorization(file: str | None, command: str | None) -> str | None:
    """What the registry is told, "Basic ..." for user:password, "Bearer ..." for a token.

    Raises LoginError.
    """
    if file is None and command is None:
        return None
    text = _read(file) if file is not None else _said(str(command))
    login = text.strip()
    what = f"registry_login_{'file' if file is not None else 'command'}"
    if not login or not login.isprintable() or not login.isascii():
        raise LoginError(f"{what}: gives no login; it is one line, user:password or a token")
    if ":" in login:
        return f"Basic {base64.b64encode(login.encode()).decode()}"
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", login):
        raise LoginError(f"{what}: gives no token: it has characters that none has")
    return f"Bearer {login}"


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise LoginError(f"registry_login_file: {file} cannot be read: {why}") from None


def _said(command: str) -> str:
    try:
        return secret_command.said(command)
    except secret_command.CommandError as error:
        raise LoginError(f"registry_login_command: {error}") from None
