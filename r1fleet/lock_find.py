"""Where the digests of a lock come from: a registry, asked from here, or a host that has them."""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

from r1fleet.lock import Locked
from r1fleet.model.manifest import ManifestError, ModelWanted, parse

TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MOST_BYTES = 1_000_000
TIMEOUT_S = 30.0


class FindError(ValueError):
    """A digest that cannot be had; the message says which, why and what to do."""


def wanted(rows: Mapping[str, Any]) -> dict[str, str]:
    """Every model that a looked-at host wants from a registry: name -> registry_url.

    + rows: of the report of a dry run
    """
    found: dict[str, str] = {}
    for row in rows.values():
        for name, model in ((row.get("plan") or {}).get("models") or {}).items():
            url = model["registry_url"]
            if found.setdefault(name, url) != url:
                why = f"{name} is wanted from {found[name]} and from {url}"
                raise FindError(f"{why}; name one by --registry-url")
    if not found:
        raise FindError("no host that could be looked at wants a model; see `r1fleet plan`")
    return found


def unseen(rows: Mapping[str, Any]) -> list[str]:
    """Hosts that were reached in vain: held, in maintenance, refused before their size was known.
    A mere mirror wants no model, and has nothing to hide."""
    seen = ("as wanted", "would change", "unreachable")
    return [
        f"{name} ({row['verdict']})"
        for name, row in rows.items()
        if not row.get("plan") and row["verdict"] not in seen
    ]


def of_host(
    rows: Mapping[str, Any], host: str, names: Mapping[str, str], at: str
) -> dict[str, Locked]:
    """The digests of what a host has installed."""
    if host not in rows:
        raise FindError(f"{host} is not among the hosts; they are {', '.join(rows)}")
    installed = (rows[host].get("plan") or {}).get("installed") or {}
    if lacking := sorted(set(names) - set(installed)):
        raise FindError(f"{host} has no {', '.join(lacking)}; ask the registry, or another host")
    return {name: Locked(digest=installed[name], source=f"host {host}", at=at) for name in names}


def of_registry(
    names: Mapping[str, str], registry_url: str | None, login: str | None, at: str
) -> dict[str, Locked]:
    """The digests that a registry has now.

    + names: name -> the registry_url of the settings
    + registry_url: a registry or mirror to ask in its place
    + login: its Authorization
    """
    found = {}
    for name, url in names.items():
        want = named(name, registry_url or url)
        raw = manifest(want, login)
        try:
            digest = parse(raw).digest
        except ManifestError as error:
            raise FindError(f"{name}: {want.registry_url} served no manifest, {error}") from error
        found[name] = Locked(digest=digest, source=want.registry_url, at=at)
    return found


def named(name: str, registry_url: str) -> ModelWanted:
    """A model by its name and registry. Raises FindError."""
    try:
        return ModelWanted(name, registry_url.rstrip("/"), "/")
    except ValueError as error:
        raise FindError(str(error)) from None


def manifest(want: ModelWanted, login: str | None, reference: str | None = None) -> bytes:
    """The manifest of the tag, or of a digest, as the registry serves it. Raises FindError."""
    url = f"{want.repository_url}/manifests/{reference or want.tag}"
    try:
        try:
            return _get(url, login)
        except urllib.error.HTTPError as error:
            given = login and error.code == 401 and token(url, error, login)
            if not given:
                raise
            return _get(url, f"Bearer {given}")
    except urllib.error.HTTPError as error:
        do = "check --login-file" if error.code in (401, 403) else "check the tag and registry_url"
        raise FindError(f"{want.name}: {url} answered {error.code}; {do}") from None
    except (OSError, HTTPException, ValueError) as error:
        do = "--registry-url names another registry, --from-host a host"
        raise FindError(f"{want.name}: {url}: {error}; {do}") from None


def _get(url: str, login: str | None) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": TYPE})
    if login:
        # Unredirected: it is for no server that the registry sends us to.
        request.add_unredirected_header("Authorization", login)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        body: bytes = response.read(MOST_BYTES)
        return body


def token(url: str, refusal: urllib.error.HTTPError, login: str) -> str | None:
    """The token that a registry itself gives for a login; None when it offers none."""
    challenge = str(refusal.headers.get("WWW-Authenticate", ""))
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.get("realm", "")
    if urlsplit(realm)[:2] != urlsplit(url)[:2]:
        return None
    query = urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
    found = re.search(rb'"token"\s*:\s*"([^"]+)"', _get(f"{realm}?{query}", login))
    return found[1].decode() if found else None
