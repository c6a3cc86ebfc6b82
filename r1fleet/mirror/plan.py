"""Who is a mirror, for whom, and what its files say: pure, from the inventory's settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from r1fleet import paths
from r1fleet.managed import ManagedFile
from r1fleet.settings import Settings, SettingsError
from r1fleet.templates import render

GROUP = "mirror"
USER = "r1fleet-mirror"
ABOUT = "/r1fleet-mirror"  # where a mirror says what it stands for
ENGINE = "/engine"  # below it lie the releases, as below engine_url
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

# Who may ask where a host is known by its name alone: nginx compares addresses.
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
LOOPBACK = ("127.0.0.0/8", "::1/128")

# Between the slashes of a repository: no dots alone, so no way up.
_NAME = "[A-Za-z0-9_]+([._-]+[A-Za-z0-9_]+)*"


@dataclass(frozen=True)
class MirrorWanted:
    """The mirror that a host should be."""

    files: tuple[ManagedFile, ...]  # a change of one of these means a restart
    own_url: str  # where it answers on its own host


@dataclass(frozen=True)
class Fleet:
    """The inventory with its mirrors: settings of all hosts, and what its mirrors should be."""

    settings: Mapping[str, Settings]
    mirrors: Mapping[str, MirrorWanted]
    first: str | None  # the mirror that hosts without a mirror_url of their own use


def join(
    settings: Mapping[str, Settings], addresses: Mapping[str, str], members: Sequence[str]
) -> Fleet:
    """Tell every host its mirror, and plan the mirrors.

    + settings: of the hosts
    + addresses: of all hosts of the inventory, as SSH reaches them
    + members: the hosts of the group `mirror`, in the inventory's order

    Raises SettingsError for a mirror that could not fetch.
    """
    first = members[0] if members else None
    told = dict(settings)
    if first:
        url = f"http://{_in_url(addresses[first])}:{settings[first].mirror_port}"
        for name, own in settings.items():
            if own.mirror_url is None:
                told[name] = own.model_copy(update={"mirror_url": url})
    faults = [line for name in members for line in _faults(name, told[name])]
    if faults := [*faults, *_unpinned(told)]:
        raise SettingsError(faults)
    mirrors = {name: wanted(told[name], list(addresses.values())) for name in members}
    return Fleet(told, mirrors, first)


def _faults(name: str, own: Settings) -> list[str]:
    found = []
    if own.bundle:
        found.append(
            f"{name}: bundle: a mirror has nothing to fetch with one; leave it out, or take the"
            " host out of the group mirror"
        )
    if own.https_proxy:
        found.append(
            f"{name}: https_proxy: a mirror cannot fetch through a proxy; take the host out of"
            " the group mirror, or give it a way out of its own"
        )
    for key, url in (("registry_url", own.registry_url), ("engine_url", own.engine_url)):
        if key == "registry_url" and urlsplit(url).path.strip("/"):
            found.append(
                f"{name}: registry_url: has a path, and a mirror stands for a whole registry;"
                " take the host out of the group mirror, or name a registry without one"
            )
        if own.mirror_url and urlsplit(url).netloc == urlsplit(own.mirror_url).netloc:
            found.append(f"{name}: {key}: is the mirror itself; name the source behind it")
    return found


def _unpinned(settings: Mapping[str, Settings]) -> list[str]:
    """Hosts whose engine would come by plain HTTP alone, and be held against nothing else."""
    return [
        f"{name}: engine_sha256: is needed where all comes through a mirror by plain http; set it,"
        " or mirror_fallback: True, and its checksum comes from engine_url"
        for name, own in settings.items()
        if own.serve and not own.bundle and not own.mirror_fallback
        if (own.mirror_url or "").startswith("http://") and own.engine_sha256 is None
    ]


def wanted(own: Settings, addresses: Sequence[str]) -> MirrorWanted:
    """The mirror of a host with these settings, for hosts at these addresses."""
    sources = (own.registry_url, own.engine_url)
    plain = any(url.startswith("http://") for url in sources)
    config = render(
        "mirror.conf",
        run_dir="/run/r1fleet-mirror",
        cache_dir=f"{own.mirror_dir}/cache",
        size=own.mirror_size.lower(),
        listen=f"{_in_url(own.mirror_bind)}:{own.mirror_port}",
        allow=allowed(own, addresses),
        repository=f"(?<repository>{_NAME}(/{_NAME})+)",
        about=ABOUT,
        registry_url=own.registry_url,
        engine_url=own.engine_url,
        schemes="https?" if plain else "https",
        certificates=CERTIFICATES,
    )
    unit = render(
        "r1fleet-mirror.service",
        dir=own.mirror_dir,
        user=USER,
        resolver=paths.MIRROR_RESOLVER,
        config=paths.MIRROR_CONF,
    )
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own.mirror_bind, own.mirror_bind)
    return MirrorWanted(
        files=(
            ManagedFile(paths.MIRROR_CONF, config),
            ManagedFile(paths.MIRROR_RESOLVER, render("mirror-resolver"), mode="755"),
            ManagedFile(paths.MIRROR_UNIT, unit),
        ),
        own_url=f"http://{_in_url(here)}:{own.mirror_port}",
    )


def allowed(own: Settings, addresses: Sequence[str]) -> tuple[str, ...]:
    """The networks that may ask: those of the setting, else the hosts of the inventory; where one
    of these is known by name alone, private networks too. The host itself always may."""
    found = set(own.mirror_allow)
    if not found:
        found = {address for address in addresses if _is_address(address)}
        if len(found) < len(set(addresses)):
            found |= set(PRIVATE)
    if own.mirror_bind not in ("0.0.0.0", "::"):
        found.add(own.mirror_bind)
    networks = sorted((ip_network(item) for item in (*LOOPBACK, *found)), key=_order)
    return tuple(str(network) for network in dict.fromkeys(networks))


def _order(network: object) -> tuple[int, bytes, int]:
    found = ip_network(str(network))
    return found.version, found.network_address.packed, found.prefixlen


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
