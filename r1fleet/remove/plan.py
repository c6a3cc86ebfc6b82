"""What of a host is r1fleet's and goes, and what stays: pure, from its probe and settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from r1fleet import paths
from r1fleet.adopt.plan import takings
from r1fleet.driver import strangers
from r1fleet.driver.commands import is_ours_to_hold
from r1fleet.driver.plan import is_part
from r1fleet.engine.install import SERVICE_USER
from r1fleet.gateway.wanted import UNIT as GATEWAY_UNIT
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings

# What is kept of a host's state when all else has gone.
ADOPTED, BROUGHT = (path.rpartition("/")[2] for path in (paths.ADOPTED_DIR, paths.BROUGHT_FILE))
KEPT = frozenset({ADOPTED, BROUGHT})
MIRROR_UNIT = "r1fleet-mirror.service"
_ENGINE = set(paths.MANAGED_FILES) - {
    *(paths.ENGINE_UNIT, *paths.DRIVER_FILES),
    *(paths.MIRROR_CONF, paths.MIRROR_UNIT, paths.MIRROR_RESOLVER),
    *(paths.GATEWAY_CADDYFILE, paths.GATEWAY_TOKENS, paths.GATEWAY_UNIT),
}
# Transient units that install packages: they are never cut off.
AT_WORK = ("r1fleet-tools.service", "r1fleet-driver.service", "r1fleet-mirror-package.service")


@dataclass(frozen=True)
class Removal:
    """What goes.

    + user: the service user came with r1fleet
    + tools, driver: packages that came with it; `driver` only where it was asked for
    + unhold: packages that r1fleet holds
    + models_dir: where models lie, also where they stay
    + notes_stay: which of the driver's packages came with it is kept, as the driver stays
    """

    engine: bool
    gateway: bool
    mirror: bool
    user: bool
    tools: tuple[str, ...]
    driver: tuple[str, ...]
    unhold: tuple[str, ...]
    models_dir: str
    models: bool
    notes_stay: bool
    stays: tuple[str, ...]


def is_there(probe: Probe, settings: Settings) -> bool:
    """Whether anything of r1fleet is on the host that is to go."""
    driver_only = settings.remove_driver and bool(_came(probe, "driver")) and _has_driver(probe)
    return _is_installed(probe) or driver_only


def _is_installed(probe: Probe) -> bool:
    """A removal that was cut off leaves the state, which goes last."""
    ours = set(paths.MANAGED_FILES) - {paths.ENGINE_UNIT, *paths.DRIVER_FILES}
    return bool(
        probe.here - KEPT
        or ours & set(probe.files)
        or probe.engine_versions
        or probe.gateway.versions
    )


def removal(probe: Probe, settings: Settings) -> Removal:
    """What goes of a host on which r1fleet is."""
    came = {kind: _came(probe, kind) for kind in ("user", "tool", "driver")}
    driver = came["driver"] if settings.remove_driver and not _was_there(probe) else ()
    return Removal(
        engine=bool(probe.engine_versions or _ENGINE & set(probe.files)),
        gateway=bool(probe.gateway.versions) or probe.unit(GATEWAY_UNIT).load != "not-found",
        mirror=paths.MIRROR_CONF in probe.files or probe.unit(MIRROR_UNIT).load != "not-found",
        user=SERVICE_USER in came["user"] and bool(probe.user_groups),
        tools=came["tool"],
        driver=driver,
        unhold=_unhold(probe),
        models_dir=settings.ollama_models,
        models=settings.remove_models and probe.models.kind is not None,
        notes_stay=bool(came["driver"]) and _has_driver(probe) and not driver,
        stays=tuple(_stays(probe, settings, came["driver"], driver)),
    )


def refusal(
    probe: Probe, settings: Settings, fetching: Sequence[str]
) -> tuple[str, str, str] | None:
    """Why nothing is taken away, as a failure's (what, why, what to do).

    + fetching: hosts that stay and fetch through this one's mirror
    """
    if not probe.is_root:
        return "remove", "our commands have no root's rights there", "give _sudo, or ssh_user root"
    if fetching:
        return (
            "mirror",
            f"these fetch through it: {', '.join(fetching)}",
            "take it out of the group mirror and run deploy.py for them first, or remove them too",
        )
    if not settings.remove_driver:
        return None
    if others := strangers.shared(probe):
        return "driver", f"the host is also used by {others}", "leave remove_driver out"
    if "apt-get" not in probe.tools and _came(probe, "driver"):
        return "driver", "only apt's packages are taken away", "leave remove_driver out"
    return None


def _came(probe: Probe, kind: str) -> tuple[str, ...]:
    """What of this kind came with r1fleet."""
    return tuple(sorted({name for what, name in probe.brought if what == kind}))


def _has_driver(probe: Probe) -> bool:
    return any(is_part(name) for name in probe.packages)


def _was_there(probe: Probe) -> bool:
    """Whether a driver was there before r1fleet."""
    came = set(_came(probe, "driver"))
    parts = {name for name in probe.packages if is_part(name)}
    return bool(parts - came)


def _unhold(probe: Probe) -> tuple[str, ...]:
    """What our holds name, but for what was held before them."""
    record = probe.system.record
    before = record.get("held_before")
    others = {str(name) for name in before} if isinstance(before, list) else set()
    ours = filter(is_ours_to_hold, probe.system.held - others)
    return tuple(sorted(ours)) if record.get("held") else ()


def _stays(
    probe: Probe, settings: Settings, came: tuple[str, ...], driver: tuple[str, ...]
) -> list[str]:
    """What stays, a line for each."""
    found = []
    if count := len(probe.models.manifests):
        where = settings.ollama_models
        if not settings.remove_models:
            how = "--data remove_models=yes takes them too"
            found += [f"the models in {where} stay, {count} names ({how})"]
    if _has_driver(probe) and not driver:
        version = probe.driver.library or probe.driver.on_disk or "as it is"
        why = "--data remove_driver=yes takes it too"
        if _was_there(probe):
            why = "not all of it came with r1fleet"
        found += [f"the driver {version} stays, with its package source ({why})"]
    if probe.user_groups and (("user", SERVICE_USER) not in probe.brought):
        found += [f"the user {SERVICE_USER} stays: it was there before r1fleet"]
    found += [f"{path} stays: it is not r1fleet's" for path in probe.dropins]
    taken = (*takings(probe.state, finished=True), *takings(probe.state, finished=False))
    found += [f"{one.text} comes back" for one in taken]
    if ADOPTED in probe.here and not taken:
        found += [f"what was there before r1fleet lies in {paths.ADOPTED_DIR}"]
    return found
