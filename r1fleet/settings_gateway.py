"""The settings of who may reach the engine, and of the gateway before it; part of Settings."""

import re
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from r1fleet import secret_source
from r1fleet import settings_check as check
from r1fleet.gateway import tokens
from r1fleet.settings_check import Bad
from r1fleet.settings_driver import DriverSettings
from r1fleet.settings_engine import Url

YES = "yes-i-know"
# Older ones do not end a body that comes too slowly.
OLDEST = (2, 11, 9)
_NAME = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def _version(value: str) -> str:
    if not re.fullmatch(r"\d+\.\d+\.\d+", value, re.ASCII):
        raise Bad("is not a release of Caddy", "give it as 2.11.9")
    if tuple(int(part) for part in value.split(".")) < OLDEST:
        raise Bad("is too old", f"use {'.'.join(map(str, OLDEST))} or later")
    return value


def _sha512(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{128}", value):
        raise Bad("is not a SHA-512", "give its 128 hex digits in lower case")
    return value


def _listen(value: str) -> str:
    return check.host_and_port(value, None)


def _host_name(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        pass
    if not _NAME.fullmatch(value) or len(value) > 253 or re.fullmatch(r"[0-9.]+", value):
        raise Bad("is not a host name in lower case, or an address", "give it as gpu1.example.org")
    return value


def _source(value: str) -> str:
    if not secret_source.is_source(value) or not value.isprintable():
        raise Bad("says not where the tokens are", "use env:NAME, file:PATH or command:WORDS")
    return value


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


Word = Literal["yes-i-know"]
Path = Annotated[str, AfterValidator(check.path)]


class GatewaySettings(DriverSettings):
    """Who reaches the engine. Ollama itself asks nobody for a password."""

    expose_unauthenticated: Word | None = Field(
        default=None, description=f"for expose open: {YES!r}"
    )
    expose: Literal["local", "gateway", "open"] = Field(
        default="local",
        validate_default=True,
        description="local: the host alone; gateway: by token and TLS; open: whoever reaches it",
    )
    gateway_plain_http: Word | None = Field(
        default=None, description=f"for gateway_tls off beyond loopback: {YES!r}"
    )
    gateway_listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="0.0.0.0:11443", description="where the gateway listens"
    )
    gateway_name: Annotated[str, AfterValidator(_host_name)] | None = Field(
        default=None, description="in its certificate; None: the address in the inventory"
    )
    gateway_certificate: Path | None = Field(
        default=None, description="for gateway_tls files: on the host, with its chain"
    )
    gateway_key: Path | None = Field(
        default=None, description="and its key, which the group r1fleet-gateway can read"
    )
    gateway_tls: Literal["internal", "acme", "files", "off"] = Field(
        default="internal",
        validate_default=True,
        description="internal: by a CA of the host; acme; files: your own; off",
    )
    gateway_tokens: Annotated[str, AfterValidator(_source)] = Field(
        default="file:~/.config/r1fleet/tokens",
        description="here: file:PATH, env:NAME or command:WORDS",
    )
    gateway_version: Annotated[str, AfterValidator(_version)] = Field(
        default="2.11.9", description="the Caddy release"
    )
    gateway_sha512: Annotated[str, AfterValidator(_sha512)] | None = Field(
        default=None, description="of its archive; None: the line of the release's checksums"
    )
    gateway_url: Url = Field(
        default="https://github.com/caddyserver/caddy/releases/download",
        validate_default=True,
        description="where releases lie",
    )

    @field_validator("expose")
    @classmethod
    def _agree_with_host(cls, expose: str, known: ValidationInfo) -> str:
        host = known.data.get("ollama_host")
        if host is None:  # which has a fault of its own
            return expose
        is_local = check.is_loopback(host)
        if expose != "open":
            if is_local:
                return expose
            raise Bad(
                f"does not go with ollama_host {host}: whoever reaches that needs no password",
                "leave ollama_host on 127.0.0.1 and use expose gateway (docs/gateway.md)",
            )
        if known.data.get("expose_unauthenticated") != YES:
            raise Bad(
                "lets everybody who reaches the host use, change and delete its models",
                f"use gateway, or set expose_unauthenticated to {YES!r} as well",
            )
        if is_local:
            raise Bad(f"does not go with ollama_host {host}", "set that to 0.0.0.0:11434")
        if "*" in known.data.get("ollama_origins", ()):
            raise Bad(
                "with ollama_origins * lets every web page that a user opens use the host",
                "name the origins",
            )
        return expose

    @field_validator("gateway_tls")
    @classmethod
    def _agree_with_names(cls, tls: str, known: ValidationInfo) -> str:
        files = (known.data.get("gateway_certificate"), known.data.get("gateway_key"))
        if tls == "files" and None in files:
            raise Bad("needs a certificate and its key", "set gateway_certificate and gateway_key")
        name = known.data.get("gateway_name")
        if tls == "acme" and (name is None or not re.search(r"\.[a-z][a-z0-9-]*$", name)):
            raise Bad("needs a public host name", "set gateway_name")
        listen = known.data.get("gateway_listen", "")
        plain = known.data.get("gateway_plain_http") == YES
        if tls == "off" and not plain and not check.is_loopback(listen):
            raise Bad(
                f"lets everybody on the way to {listen} read tokens and prompts",
                f"use internal, or set gateway_plain_http to {YES!r} as well",
            )
        return tls

    @field_validator("gateway_url")
    @classmethod
    def _needs_pin(cls, url: str, known: ValidationInfo) -> str:
        if url.startswith("http:") and not known.data.get("gateway_sha512"):
            raise Bad("is not https, and no checksum is given", "set gateway_sha512")
        return url

    @property
    def gateway_port(self) -> int:
        return int(self.gateway_listen.rpartition(":")[2])

    def client_url(self, address: str) -> str:
        """Where clients reach the engine of a host at this address; from the host itself alone
        with expose local."""
        if self.expose == "local":
            return self.base_url
        if self.expose == "open":
            return f"http://{_in_url(address)}:{self.ollama_host.rpartition(':')[2]}"
        return self.gateway_url_at(address)

    def gateway_url_at(self, address: str) -> str:
        """Where clients reach the gateway of a host, its own or the fleet's, at this address."""
        scheme = "http" if self.gateway_tls == "off" else "https"
        return f"{scheme}://{_in_url(self.gateway_name or address)}:{self.gateway_port}"

    @property
    def gateway_store(self) -> tokens.Store:
        """The tokens; secrets. Raises tokens.TokensError."""
        return tokens.read(self.gateway_tokens)
