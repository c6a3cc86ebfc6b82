"""The checks of single settings. Each returns the normalised value or raises Bad."""

import ipaddress
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import get_args
from urllib.parse import urlsplit

from r1fleet import catalog, paths

DEFAULT_PORT = 11434

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_SAFE_PATH = re.compile(r"/[A-Za-z0-9._@+/-]*")
_URL = re.compile(
    r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?"
)
# Of all further variables together; a program cannot be started with one of 128 KiB.
_MOST_ENVIRONMENT_BYTES = 64 << 10
_PROXY = re.compile(r"(https?|socks5h?)://[^\s\"'\\$`]+")
# None begins with a dash: each may become a word of a command.
_MODEL = r"([a-z0-9_][a-z0-9_-]{0,79}/)?[a-z0-9][a-z0-9._-]{0,79}"
TAGGED_MODEL = re.compile(_MODEL + r":[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
# Seconds, or what Go's time.ParseDuration reads.
_DURATION = re.compile(r"[-+]?([0-9]{1,10}|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+)")
# What the engine's CORS library takes without a `*`; anything else makes it panic at start.
_ORIGIN = re.compile(
    r"(https?|chrome-extension|safari-extension|moz-extension|ms-browser-extension)://[^\s,*]+"
)

# Whole trees that belong to the system or to us; a model directory may lie in none of them.
_CLOSED = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run"),
    *("/sbin", "/sys", "/tmp", "/usr", "/var/cache", "/var/log", "/var/run", "/var/tmp"),
    *(paths.ENGINE_ROOT, paths.STATE_DIR),
)
# Where upstream's installer puts it.
_OPEN_AGAIN = ("/usr/share/ollama",)
# Directories that hold other things: only a folder inside is ours to own.
_SHARED = ("/", "/data", "/home", "/media", "/mnt", "/opt", "/srv", "/var", "/var/lib")


class Bad(ValueError):
    """A value that cannot be used: what is wrong with it, and what to do."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(f"{what}; {do}")
        self.what, self.do = what, do


def path(value: str) -> str:
    """An absolute, plain path."""
    if not value.startswith("/"):
        raise Bad("is not an absolute path", "begin it with /")
    if not _SAFE_PATH.fullmatch(value) or ".." in value.split("/"):
        raise Bad("is not a plain path", "use only letters, digits and . _ - + @ between slashes")
    return str(PurePosixPath("/" + value.lstrip("/")))


def model_directory(value: str) -> str:
    """A path that the service may own: outside the system's own directories."""
    value = path(value)
    if value in _SHARED:
        raise Bad("holds other things too", f"name a folder inside it: {value.rstrip('/')}/ollama")
    if _inside(value, _CLOSED) and not _inside(value, _OPEN_AGAIN):
        raise Bad("lies in one of the system's own directories", "use /var/lib/ollama/models")
    return value


def _inside(value: str, trees: tuple[str, ...]) -> bool:
    return any(value == tree or value.startswith(f"{tree}/") for tree in trees)


def yes(value: object) -> object:
    """pyinfra hands `--data steal=yes` on as text."""
    return {"yes": True, "no": False}.get(value, value) if isinstance(value, str) else value


def url(value: str) -> str:
    """An http or https URL without query; a slash at its end is taken off."""
    if not _URL.fullmatch(value):
        raise Bad("is not a plain http(s) URL", "give it as https://host[:port][/path]")
    return value.rstrip("/")


def server_url(value: str) -> str:
    """A URL of scheme, host and port alone."""
    value = url(value)
    if "/" in value.partition("://")[2]:
        raise Bad("has a path", "give it as https://host[:port]")
    return value


def proxy(value: str) -> str:
    if not _PROXY.fullmatch(value) or not value.isprintable():
        raise Bad("is not a proxy URL", "give it as http://host:port")
    return value


def has_login(url: str) -> bool:
    """Whether a URL carries a user, and so perhaps a password."""
    return "@" in urlsplit(url).netloc


def one_line(value: str) -> str:
    """Printable text without line breaks."""
    if not value.isprintable() or not value.strip():
        raise Bad(
            "is not one line of printable text", "take out line breaks and control characters"
        )
    return value


def duration(value: object) -> str:
    """A time as Ollama reads it: seconds, or 5m, 1h30m; anything negative becomes "-1"."""
    text = str(value).strip()
    known = isinstance(value, int | str) and not isinstance(value, bool)
    if not known or not _DURATION.fullmatch(text):
        raise Bad("is not a time", "use seconds or a time such as 5m or 1h30m")
    return "-1" if text.startswith("-") else text


def debug(value: object) -> object:
    """OLLAMA_DEBUG is 0, 1 or 2; true means 1."""
    return int(value) if isinstance(value, bool) else value


def rate(value: object) -> object:
    """Bytes per second. pyinfra makes numbers of `--data` values, so a number is as good."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    return _form(value, r"[1-9][0-9]{0,14}[KMG]?", "a rate", "give bytes per second such as 20M")


def version(value: str) -> str:
    return _form(value, r"\d+\.\d+\.\d+(-rc\d+)?", "a release of Ollama", "give it as 0.32.15")


def over_tls(url: str, sha256: str | None, key: str) -> None:
    """Refuses what would come by plain HTTP and be held against nothing."""
    if url.startswith("http://") and sha256 is None:
        raise Bad(
            "is plain http, and nothing pins what comes from there", f"use https or set {key}"
        )


def sha256(value: str) -> str:
    return _form(value, r"[0-9a-f]{64}", "a SHA-256", "give its 64 hex digits in lower case")


def driver_version(value: str) -> str:
    return _form(value, r"\d{3}(\.\d+){0,2}", "a driver version", "give it as 580.95.05 or 580")


def process_names(value: tuple[str, ...]) -> tuple[str, ...]:
    """Names that processes or units can have."""
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9_.@:+][A-Za-z0-9_.@:+-]*", name):
            raise Bad(f"has a name that no process has: {name!r}", "name processes or units")
    return value


def model_name(value: str) -> str:
    return _form(value, _MODEL, "a model name", "give it without tag, as deepseek-r1")


def _form(value: str, form: str, what: str, do: str) -> str:
    if not re.fullmatch(form, value, re.ASCII):
        raise Bad(f"is not {what}", do)
    return value


def origins(value: object) -> tuple[str, ...]:
    """Browser origins from a list or a comma list. One without a scheme crashes the engine."""
    if not isinstance(value, str | list | tuple):
        raise Bad("is not a list of origins", "give a list or a comma-separated text")
    items = value.split(",") if isinstance(value, str) else value
    found = tuple(str(item).strip() for item in items if str(item).strip())
    for origin in found:
        if not origin.isprintable() or any(mark in origin for mark in " ,\"'\\$`"):
            raise Bad(f"has a character that no origin has in {origin!r}", "take it out")
        if "*" in origin and (origin.count("*") > 1 or not (origin == "*" or "://" in origin)):
            raise Bad(f"has an origin {origin!r} that the engine refuses", "use one * and a scheme")
        if "*" not in origin and not _ORIGIN.fullmatch(origin):
            raise Bad(f"has an origin without a scheme: {origin!r}", f"write https://{origin}")
    return found


def tag_of(model: str, value: str | None) -> str | None:
    """A tag of the catalogue, or of another model that the user's own catalogue has."""
    if value is None:
        if catalog.is_r1(model):
            return None
        raise Bad(f"is needed with model {model}", "name one; only deepseek-r1 is chosen by size")
    if f"{model}:{value}" in catalog.others():
        return value
    if not catalog.is_r1(model):
        name = f"{model}:{value}"
        raise Bad(
            f"is of a model whose shape is not known, {name}",
            f"add what `r1fleet shape {name}` prints to {catalog.LOCAL}",
        )
    return tag(value)


def tag(value: str) -> str:
    """A tag of DeepSeek-R1 in the catalogue."""
    known = catalog.tag_names()
    if value not in known:
        near = get_close_matches(value, known, n=3, cutoff=0.4)
        short = [name for name in known if len(name) <= 4]
        raise Bad("is not a known tag", f"nearest: {', '.join(near or short)}")
    return value


def names(value: object) -> object:
    """Names from a list or a comma list."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise Bad("is not a list of names", "give a list or a comma-separated text")
    return tuple(str(item).strip() for item in items if str(item).strip())


def known_names(value: tuple[str, ...], setting: str) -> tuple[str, ...]:
    """The names of a setting that lists some of the catalogue's, each once."""
    known, may_be_empty = {
        "size_order": (catalog.sizes(), False),
        "quantisations": (get_args(catalog.Quantisation), False),
        "kv_cache_types": (get_args(catalog.KvType), False),
        "extra_models": (catalog.extra_names(), True),
    }[setting]
    if not value and not may_be_empty:
        raise Bad("is empty", f"name at least one of {', '.join(known)}")
    for name in value:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
            raise Bad(f"has an unknown name {name!r}", f"nearest: {', '.join(near)}")
    if len(set(value)) < len(value):
        raise Bad("names something twice", "leave one of them out")
    return value


def digests(value: dict[str, str]) -> dict[str, str]:
    """Pinned manifest digests by model name and tag."""
    for name, digest in value.items():
        if not TAGGED_MODEL.fullmatch(name):
            raise Bad(f"names no tag in {name!r}", 'use names such as "deepseek-r1:14b"')
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise Bad(f"has no digest for {name}", 'use "sha256:" and 64 hex digits')
    return value


def environment(value: Mapping[str, object], own: Mapping[str, str]) -> dict[str, str]:
    """Further variables of the engine; `own` maps those that have a setting to its name."""
    found = {}
    for name, content in value.items():
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise Bad(f"has a name that is no variable: {name!r}", "use A-Z, 0-9 and _")
        if name in own:
            raise Bad(f"has {name}, which has its own setting", f"use {own[name]}")
        if isinstance(content, bool) or not isinstance(content, str | int):
            raise Bad(f"has no text for {name}", "give a text or a whole number")
        if not str(content).isprintable():
            raise Bad(f"has a line break or control character in {name}", "give one line")
        found[name] = str(content)
    if sum(len(text.encode()) for text in found.values()) > _MOST_ENVIRONMENT_BYTES:
        raise Bad("is more than 64 KiB in all", "give a file's path in place of its content")
    return found


def host_and_port(value: str, port: int | None) -> str:
    """OLLAMA_HOST as host:port, without the ways in which Ollama takes it otherwise than meant.

    Ollama takes http://HOST as port 80 and a port out of range as 11434, without a word.
    """
    scheme, _, rest = value.strip().rpartition("://")
    if scheme not in ("", "http"):
        raise Bad(
            "has a scheme that the engine cannot serve", "write host:port; it speaks http only"
        )
    if "/" in rest.rstrip("/") or not rest.rstrip("/"):
        raise Bad("is not host:port", "write it as 127.0.0.1:11434")
    host, named = _split(rest.rstrip("/"))
    if named is None and scheme and port is None:
        raise Bad("has no port, and Ollama takes 80 then", f"write http://{rest}:{DEFAULT_PORT}")
    if named is not None and not 1 <= named <= 65535:
        raise Bad("has a port out of range", "use 1 to 65535")
    if port is not None and named not in (None, port):
        raise Bad(f"names port {named}, but port is {port}", "set only one of them")
    final = port or named or DEFAULT_PORT
    return f"[{host}]:{final}" if ":" in host else f"{host}:{final}"


def _split(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `:port`, `[v6]`, `[v6]:port` or a bare v6."""
    host, named = text, None
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*):([0-9]+)", text)
    if match:
        host, named = match[1], int(match[2])
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"
    try:
        if "%" not in host:  # a scope would reach shells and unit files
            return str(ipaddress.ip_address(host)), named
    except ValueError:
        pass
    numeric = re.fullmatch(r"[0-9.]+", host)
    if numeric or not _NAME.fullmatch(host):
        raise Bad("is not an address or host name", "write it as 127.0.0.1:11434, or use port")
    return host, named


def is_loopback(listen: str) -> bool:
    """Whether only the host itself can reach what listens on host:port."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
