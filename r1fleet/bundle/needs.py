"""What a host needs of a bundle, and what a bundle lacks for a host: pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from r1fleet import decide
from r1fleet.bundle.contents import AGAIN, Bundle
from r1fleet.driver import commands
from r1fleet.driver.choice import Wanted, choose
from r1fleet.driver.foreign import Stop, owner
from r1fleet.driver.plan import DriverPlan, only_holds
from r1fleet.engine import wanted
from r1fleet.engine.install import TOOLS
from r1fleet.engine.wanted import ARCHIVE_ARCH, Archive
from r1fleet.gateway import wanted as gateways
from r1fleet.gateway.wanted import Archive as Caddy
from r1fleet.hostfacts import Probe
from r1fleet.mirror.source import has
from r1fleet.model.manifest import ModelWanted
from r1fleet.settings import Settings

FIX = f"{AGAIN} for hosts like this one, or leave `bundle` out"


@dataclass(frozen=True)
class DriverPackages:
    """The packages of a driver, and what a repository beyond the host's own must have."""

    names: tuple[str, ...]
    pins: tuple[str, ...] = ()
    keyring_url: str | None = None
    keyring_sha256: str | None = None
    components: tuple[str, ...] = ()


def release(probe: Probe) -> str:
    """The distribution's release as bundles name it."""
    return f"{probe.distro} {probe.distro_version}"


def archive(settings: Settings, probe: Probe) -> Archive:
    """The engine that the host is to have."""
    choice = decide.size(settings, probe).sizing.choice
    on_cpu = choice is not None and choice.placement == "cpu"
    return wanted.archive(settings, probe.arch, rocm=bool(probe.rocm) and not on_cpu)


def models(settings: Settings, probe: Probe) -> tuple[ModelWanted, ...]:
    """The models that the host is to have; () where none fits."""
    choice = decide.size(settings, probe).sizing.choice
    if choice is None:
        return ()
    return (decide.model_wanted(settings, choice), *decide.extras_wanted(settings, choice))


def driver(settings: Settings, probe: Probe) -> DriverPackages | Stop | None:
    """The driver's packages for the host as if it had none; None where it needs none of ours."""
    if not probe.nvidia_gpus or owner(probe):
        return None
    found = choose(probe, settings)
    return found if isinstance(found, Stop) else _packages(found, probe, settings)


def _packages(found: Wanted, probe: Probe, settings: Settings) -> DriverPackages | Stop:
    way = found.way
    if way.manager != "apt":
        return Stop(f"packages of {way.manager} are not packed", "install the driver by hand")
    pins = tuple(found.fill(name, probe) for name in way.pin)
    asked = tuple(found.fill(name, probe) for name in way.needs)
    url = f"{settings.driver_repository_url}/{way.repository}/{found.arch}/{way.keyring}"
    packages = [*commands.packages(found, probe), *commands.beside(found, probe)]
    return DriverPackages(
        names=tuple(dict.fromkeys((*pins, *asked, *packages))),
        pins=pins,
        keyring_url=url if way.keyring else None,
        keyring_sha256=settings.driver_keyring_sha256 if way.keyring else None,
        components=way.components,
    )


def tools(probe: Probe) -> tuple[str, ...]:
    """Packages of programs that the host has not."""
    return tuple(sorted(package for tool, package in TOOLS.items() if tool not in probe.tools))


def driver_names(settings: Settings, probe: Probe, plan: DriverPlan) -> set[str]:
    """The packages that a plan's commands name, with what pins their branch."""
    # A branch is named by whole drivers alone: not by a fabric manager, or one of before.
    found = driver(settings, probe) if plan.branch else None
    names = set(found.names) if isinstance(found, DriverPackages) else set()
    return names | {*plan.packages}


def lacking(bundle: Bundle, settings: Settings, probe: Probe, plan: DriverPlan) -> Iterator[str]:
    """What the host needs now and the bundle has not, a few words for each."""
    names = {*tools(probe)}
    if plan.commands and not only_holds(plan):
        names |= driver_names(settings, probe, plan)
        if settings.driver_rollback:
            yield "the driver from before (driver_rollback)"
    if names and bundle.package_set(release(probe), probe.arch, names) is None:
        sets = [row for row in bundle.contents.packages if row.release == release(probe)]
        known = {name for row in sets if row.arch == probe.arch for name in row.has}
        what = ", ".join(sorted(names - known) or sorted(names))
        yield f"for {release(probe)} ({probe.arch}) the packages {what}"
    yield from _lacking_engine(bundle, settings, probe)
    yield from lacking_gateway(bundle, settings, probe)
    for want in models(settings, probe):
        if not has(probe, want):
            yield from _lacking_model(bundle, want)


def _lacking_engine(bundle: Bundle, settings: Settings, probe: Probe) -> Iterator[str]:
    wants = archive(settings, probe)
    if wants.key in probe.engine_versions:
        return
    row = bundle.engine(settings.engine_version, probe.arch)
    if row is None or (wants.rocm_url and not row.rocm):
        yield f"Ollama {wants.version} for {probe.arch}{' with ROCm' if wants.rocm_url else ''}"
    elif wants.sha256 not in (None, found := bundle.contents.files[row.archive].sha256):
        yield f"the Ollama of engine_sha256 (it has {found[:12]})"


def gateway(settings: Settings, probe: Probe, *, balances: bool = False) -> Caddy | None:
    """Caddy's archive for a host that has a gateway, of its own or of the fleet."""
    if probe.arch not in ARCHIVE_ARCH or not (balances or settings.expose == "gateway"):
        return None
    return gateways.archive(settings, probe.arch)


def lacking_gateway(
    bundle: Bundle, settings: Settings, probe: Probe, *, balances: bool = False
) -> Iterator[str]:
    """What a bundle lacks of the gateway that a host is to have."""
    wants = gateway(settings, probe, balances=balances)
    if wants is None or wants.key in probe.gateway.versions:
        return
    if not bundle.gateway(wants.version, probe.arch):
        yield f"Caddy {wants.version} for {probe.arch}"


def _lacking_model(bundle: Bundle, want: ModelWanted) -> Iterator[str]:
    if want.source:
        if want.source.kind == "url":
            yield f"{want.name}, which model_sources has at a URL: name a file there"
        return
    row = bundle.contents.models.get(want.name)
    if row is None:
        yield f"the model {want.name}"
    elif want.digest not in (None, row.digest):
        yield f"{want.name} with the pinned {want.digest[:19]} (it has {row.digest[:19]})"
