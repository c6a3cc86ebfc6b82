"""How to use what a run has left: address, model name, and what to type. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r1fleet.settings import Settings

SERVES = ("changed", "as wanted")


@dataclass(frozen=True)
class Use:
    """Where clients ask. `with_token`: a gateway; `own_ca`: its certificate is of its own CA;
    `local`: the address is the host's own loopback."""

    host: str
    base_url: str
    model: str
    with_token: bool
    own_ca: bool
    local: bool


def use_of(rows: list[dict[str, Any]], settings: Mapping[str, Settings]) -> Use | None:
    """The fleet's one address where it has one, else that of the first host that serves."""
    serving = [row for row in rows if row["verdict"] in SERVES and row["tag"]]
    if not serving:
        return None
    model = settings[serving[0]["host"]].alias or (
        f"{settings[serving[0]['host']].model}:{serving[0]['tag']}"
    )
    balancing = [
        row
        for row in rows
        if row["verdict"] in SERVES and row["expose"] == "gateway" and not row["tag"]
    ]
    behind = any(row["expose"] == "gateway" for row in serving)
    row = balancing[0] if balancing and behind else serving[0]
    shared = row["expose"] == "gateway"
    own_ca = shared and settings[row["host"]].gateway_tls == "internal"
    return Use(row["host"], row["url"], model, shared, own_ca, row["expose"] == "local")


def lines(use: Use, inventory: str) -> Iterator[str]:
    """What the end of a run says of it; `inventory` as it was given."""
    yield f"Use it: r1fleet ask {inventory} 'Hello'    (--host NAME: that one)"
    if use.local:
        yield f"To have it here at the host's own address: r1fleet tunnel {inventory} {use.host}"
    if use.with_token:
        yield "TOKEN: by `r1fleet token new NAME` and another run (docs/gateway.md)"
    if use.own_ca:
        yield "root.crt, also as SSL_CERT_FILE for Python: the CA of the gateway (docs/gateway.md)"
    yield f"  base URL  {use.base_url}  (OpenAI: {use.base_url}/v1)"
    yield f"  model     {use.model}"
    yield f"  curl      {curl(use)}"
    yield f"  Python    {python(use)}"
    yield f"  OpenAI    {openai(use)}"


def curl(use: Use) -> str:
    """A command for a shell; the token is its variable TOKEN."""
    header = ' -H "Authorization: Bearer $TOKEN"' if use.with_token else ""
    root = " --cacert root.crt" if use.own_ca else ""
    body = f'{{"model": "{use.model}", "stream": false, {_MESSAGES}}}'
    return f"curl {use.base_url}/api/chat{header}{root} -d '{body}'"


def python(use: Use) -> str:
    """Python with the package `ollama`; the token is the environment's TOKEN."""
    token = """, headers={"Authorization": "Bearer " + os.environ["TOKEN"]}"""
    client = f'ollama.Client("{use.base_url}"{token if use.with_token else ""})'
    answer = f'{client}.chat("{use.model}", {_ASK}).message.content'
    return f"{_imports(use)}ollama; print({answer})"


def openai(use: Use) -> str:
    """Python with the package `openai`; it wants some key, always."""
    key = 'os.environ["TOKEN"]' if use.with_token else '"unused"'
    client = f'openai.OpenAI(base_url="{use.base_url}/v1", api_key={key})'
    asked = f'{client}.chat.completions.create(model="{use.model}", messages={_ASK})'
    return f"{_imports(use)}openai; print({asked}.choices[0].message.content)"


def _imports(use: Use) -> str:
    return "import os, " if use.with_token else "import "


_MESSAGES = '"messages": [{"role": "user", "content": "Hello"}]'
_ASK = '[{"role": "user", "content": "Hello"}]'
