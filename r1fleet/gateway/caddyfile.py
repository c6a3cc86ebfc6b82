"""What the gateway lets through, and the Caddyfile that says so: pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from r1fleet import paths
from r1fleet.settings import Settings
from r1fleet.templates import render

# Methods and paths of the engine's API as they stand in a request line; all others are refused.
USE = (
    "(GET|HEAD) /",
    "(GET|HEAD) /api/(tags|version)",
    "GET /api/ps",
    "POST /api/(chat|generate|embed|embeddings|show)",
    "GET /v1/models(/[A-Za-z0-9_][A-Za-z0-9._:-]*)?",
    "POST /v1/(chat/completions|completions|embeddings|messages|responses)",
)
ADMIN = (
    "POST /api/(pull|create|copy|push)",
    "DELETE /api/delete",
)
BLOBS = ("(HEAD|POST) /api/blobs/sha256[:-][0-9a-f]{64}",)

# What the engine allows by itself: pages of the client's own machine, and programs.
_OWN_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
_OWN_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")


@dataclass(frozen=True)
class Limits:
    """How long and how large things may be, in the units of their names (rate: bytes per s)."""

    read_header_s: int = 10
    read_body_s: int = 30
    read_body_rate: int = 1024
    write_stall_s: int = 60
    idle_s: int = 60
    body_mb: int = 32


def caddyfile(settings: Settings, address: str, limits: Limits = Limits()) -> str:
    """The Caddyfile of a host's gateway.

    + address: by which others reach the host
    """
    return render(
        "Caddyfile",
        **frame(settings, address, limits=limits),
        engine=urlsplit(settings.base_url).netloc,
        routes={"use": line_of(USE), "admin": line_of(ADMIN), "blobs": line_of(BLOBS)},
        pool_dir=paths.GATEWAY_POOLS,
    )


def frame(
    settings: Settings, address: str, more_names: Sequence[str] = (), limits: Limits = Limits()
) -> dict[str, object]:
    """What every gateway's Caddyfile is filled with: where it listens, as whom, for whom."""
    listen, port = settings.gateway_listen.rpartition(":")[::2]
    tls = settings.gateway_tls
    scheme = "http" if tls == "off" else "https"
    # What a certificate is for; no public authority has one for the inventory's address.
    names = [settings.gateway_name, None if tls == "acme" else address, *more_names]
    named = [] if tls == "off" else list(dict.fromkeys(filter(None, names)))
    return {
        "server_name": named[0] if named else "",
        # The one without a name takes what asks for any other, or for none.
        "sites": [*(f"https://{_in_url(name)}:{port}" for name in named), f"{scheme}://:{port}"],
        "bind": "" if listen in ("0.0.0.0", "[::]") else listen.strip("[]"),
        "tls": tls,
        "certificate": settings.gateway_certificate,
        "key": settings.gateway_key,
        "limits": limits,
        "origins": origins(settings.ollama_origins),
    }


def line_of(routes: Sequence[str]) -> str:
    """A regular expression of request lines that ask for one of these routes."""
    return rf"^({'|'.join(routes)})(\?.*)?$"


def origins(wanted: Sequence[str]) -> str:
    """A regular expression of the origins that browsers may come from, as the engine takes them."""
    own = [rf"https?://{re.escape(host)}(:[0-9]+)?" for host in _OWN_HOSTS]
    own += [f"{scheme}://.*" for scheme in _OWN_SCHEMES]
    # Between the slashes alone: a `*` stands for names and ports, not for a path.
    named = [re.escape(one).replace(r"\*", "[^/?#]*") for one in wanted if one != "*"]
    named += [".*"] if "*" in wanted else []
    return f"^({'|'.join([*own, *named])})$"


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
