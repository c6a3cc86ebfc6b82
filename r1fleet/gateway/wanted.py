"""What the gateway of a host should be: pure, from settings and the store of tokens."""

from dataclasses import dataclass

from r1fleet import paths
from r1fleet.engine.wanted import ARCHIVE_ARCH
from r1fleet.gateway.caddyfile import caddyfile
from r1fleet.gateway.tokens import Store, caddy_lines
from r1fleet.managed import ManagedFile
from r1fleet.settings import Settings
from r1fleet.templates import render

USER = "r1fleet-gateway"
UNIT = "r1fleet-gateway.service"
HOME = f"/var/lib/{USER}"
ROOT_CERTIFICATE = f"{HOME}/caddy/pki/authorities/local/root.crt"
LOWEST_FREE_PORT = 1024


@dataclass(frozen=True)
class Archive:
    """Caddy's archive. `sha512` None: the line of the release's checksums decides.

    + bundle: the bundle here that it is sent from; the URLs are then of files on the host
    """

    version: str
    url: str
    sums_url: str
    sha512: str | None
    bundle: str | None = None

    @property
    def key(self) -> str:
        """Name of its directory below GATEWAY_ROOT."""
        return "-".join(filter(None, (self.version, (self.sha512 or "")[:12])))


@dataclass(frozen=True)
class GatewayWanted:
    """Everything of a gateway. A change of `files` means a reload, one of the rest a restart."""

    archive: Archive
    files: tuple[ManagedFile, ...]
    unit: ManagedFile


def archive(settings: Settings, arch: str) -> Archive:
    """The archive for an architecture as `uname -m` names it. Raises KeyError for others."""
    version = settings.gateway_version
    file, sums = (
        f"caddy_{version}_linux_{ARCHIVE_ARCH[arch]}.tar.gz",
        f"caddy_{version}_checksums.txt",
    )
    home = f"{settings.gateway_url}/v{version}"
    if settings.bundle:
        # As it lies on the host once it was sent.
        home, sums = f"file://{paths.BUNDLE_DIR}/gateway", f"{arch}-{sums}"
    return Archive(
        version, f"{home}/{file}", f"{home}/{sums}", settings.gateway_sha512, settings.bundle
    )


def gateway(settings: Settings, store: Store, host: str, address: str, arch: str) -> GatewayWanted:
    """The gateway of a host.

    + host: its name in the inventory
    + address: by which others reach it

    Raises TokensError where the store has no key.
    """
    config = caddyfile(settings, address)
    tokens = caddy_lines([*store.tokens, store.for_host(host), store.health])
    return make(settings, config, tokens, arch)


def make(settings: Settings, config: str, tokens: str, arch: str) -> GatewayWanted:
    """A gateway with this Caddyfile and this file of tokens."""
    owner = f"root:{USER}"
    return GatewayWanted(
        archive(settings, arch),
        files=(
            ManagedFile(paths.GATEWAY_CADDYFILE, config, mode="640", owner=owner),
            ManagedFile(paths.GATEWAY_TOKENS, tokens, mode="640", owner=owner),
        ),
        unit=ManagedFile(paths.GATEWAY_UNIT, unit(settings)),
    )


def unit(settings: Settings) -> str:
    """The unit, the same for gateways of hosts and of fleets."""
    # An authority that proves a name asks at the ports 80 and 443.
    low = settings.gateway_port < LOWEST_FREE_PORT or settings.gateway_tls == "acme"
    return render(
        "r1fleet-gateway.service",
        user=USER,
        home=HOME,
        caddy=f"{paths.GATEWAY_ROOT}/current/caddy",
        caddyfile=paths.GATEWAY_CADDYFILE,
        drain_flag=paths.DRAIN_FLAG,
        drain_marks=(paths.DRAINING, paths.REFUSING),
        low_ports=low,
    )
