"""The store of tokens: text on the machine one works on, `NAME ROLE TOKEN` in each line.

Its first line, `key ...`, is what the tokens of fleet gateways are derived from.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, cast, get_args

from r1fleet import secret_source

Role = Literal["use", "admin"]

FLEET_GATEWAY = "r1fleet-gateway"  # the name by which a host's log has the fleet gateway
HEALTH = "r1fleet-health"
# `key` begins the line of the key.
NAME = re.compile(r"(?!key$|r1fleet-(gateway|health)$)[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_SECRET = re.compile(r"r1f_[A-Za-z0-9_-]{43}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class TokensError(ValueError):
    """There are no tokens where they should be; the message never holds any of them."""


@dataclass(frozen=True)
class Token:
    """Who may ask, and what. Several of one name are valid side by side."""

    name: str
    role: Role | Literal["health"]
    secret: str = field(repr=False)

    @property
    def mark(self) -> str:
        """Eight hex digits that tell it from others of its name, and nothing of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Store:
    """All that a store says."""

    tokens: tuple[Token, ...] = ()
    key: str | None = field(default=None, repr=False)

    def for_host(self, host_name: str) -> Token:
        """The token by which a fleet gateway asks this host. Raises TokensError without a key."""
        return Token(FLEET_GATEWAY, "use", self._derived(f"gateway {host_name}"))

    @property
    def health(self) -> Token:
        """The token by which fleet gateways ask every host for its health, and for nothing else.
        Raises TokensError without a key."""
        return Token(HEALTH, "health", self._derived("health"))

    def _derived(self, purpose: str) -> str:
        if self.key is None:
            raise TokensError("the store has no line `key ...`; make it with `r1fleet token new`")
        digest = hmac.digest(self.key.encode(), purpose.encode(), "sha256")
        return f"r1f_{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def new_secret() -> str:
    """256 random bits, as a token is written."""
    return f"r1f_{secrets.token_urlsafe(32)}"


def new_key() -> str:
    """A key line for a new store."""
    return f"key {secrets.token_urlsafe(32)}"


def parse(text: str) -> Store:
    """Read a store. Raises TokensError with the number of the line, and nothing of it."""
    tokens: list[Token] = []
    key = None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "key" and len(words) == 2 and key is None and _KEY.fullmatch(words[1]):
            key = words[1]
        elif token := _token(words):
            tokens.append(token)
        else:
            raise TokensError(f"line {number} is not NAME ROLE TOKEN (role use or admin)")
    if len({token.secret for token in tokens}) < len(tokens):
        raise TokensError("a token is there twice")
    return Store(tuple(tokens), key)


def _token(words: list[str]) -> Token | None:
    if len(words) != 3 or words[1] not in get_args(Role):
        return None
    if not NAME.fullmatch(words[0]) or not _SECRET.fullmatch(words[2]):
        return None
    return Token(words[0], cast(Role, words[1]), words[2])


@cache
def read(source: str) -> Store:
    """The store of a setting; read once in a run, a command may want a finger on a key.

    Raises TokensError.
    """
    try:
        return parse(text_of(source))
    except TokensError as error:
        raise TokensError(f"gateway_tokens: {secret_source.shown(source)}: {error}") from None


def text_of(source: str) -> str:
    """What a source holds. Raises TokensError."""
    try:
        return secret_source.text(source)
    except secret_source.NoFileError as error:
        raise TokensError(f"{error}; `r1fleet token new NAME` makes it") from None
    except secret_source.SourceError as error:
        raise TokensError(str(error)) from None


def caddy_lines(tokens: Iterable[Token]) -> str:
    """The tokens as the lines of a `map` of Caddy; all three words are plain by their form."""
    rows = sorted({(token.name, token.role, token.secret) for token in tokens})
    return "".join(f"{secret} {name} {role}\n" for name, role, secret in rows)
