"""The files of the watch, from settings and the size that was chosen. Pure."""

import shlex
from dataclasses import dataclass
from functools import cache
from importlib import resources

from r1fleet import paths
from r1fleet.alias import wanted as alias
from r1fleet.decide import extras_wanted
from r1fleet.hostfacts import Probe
from r1fleet.managed import ManagedFile
from r1fleet.settings import Settings
from r1fleet.sizing import Choice
from r1fleet.templates import render
from r1fleet.verify.judge import keep_alive_json
from r1fleet.watch.said import UNIT

TEXTFILE_DIR = "/var/lib/prometheus/node-exporter"  # of Debian's prometheus-node-exporter
TIMER = "r1fleet-watch.timer"
SPARE_S = 240  # for all that a look does besides loading the model


@dataclass(frozen=True)
class WatchWanted:
    """The watch of a host; `textfile_dir` is made where the settings name it."""

    files: tuple[ManagedFile, ...]
    textfile_dir: str
    is_asked_for: bool  # the folder, by the settings


def watch(settings: Settings, choice: Choice, probe: Probe) -> WatchWanted:
    """The watch of a host for a chosen size."""
    folder = settings.watch_textfile_dir or TEXTFILE_DIR
    load_limit_s = settings.load_time_max_s + 120  # as the unit that loads the model has
    values = {
        **_planned(settings, choice, probe),
        "ask_every_s": settings.watch_ask_every_s,
        "disk_min_mib": settings.watch_disk_min_mib,
        "repair_every_s": settings.watch_repair_every_s,
        "repairs_per_day": settings.watch_repairs_per_day,
        "load_limit_s": load_limit_s,
        "textfile_dir": folder,
        "hook": settings.watch_hook or "",
    }
    variables = [(name, shlex.quote(str(value))) for name, value in values.items()]
    unit = render(
        UNIT,
        script=paths.WATCH,
        conf=paths.WATCH_CONF,
        timeout_s=load_limit_s + SPARE_S,
        state_dir=paths.WATCH_DIR,
        textfile_dir=folder,
    )
    return WatchWanted(
        files=(
            ManagedFile(paths.WATCH, script(), mode="755"),
            ManagedFile(
                paths.WATCH_CONF, render("watch.conf", script=paths.WATCH, variables=variables)
            ),
            ManagedFile(paths.WATCH_UNIT, unit),
            ManagedFile(paths.WATCH_TIMER, render(TIMER, interval_s=settings.watch_interval_s)),
        ),
        textfile_dir=folder,
        is_asked_for=settings.watch_textfile_dir is not None,
    )


def _planned(settings: Settings, choice: Choice, probe: Probe) -> dict[str, object]:
    """What the host should be like. The model's name is read from the file that loads it, which a
    way back puts back as well."""
    cards = probe.driver.gpus if choice.placement != "cpu" else ()
    kind = "amd" if probe.rocm and choice.placement != "cpu" else "nvidia" if cards else "none"
    keep_alive = str(keep_alive_json(settings.ollama_keep_alive))
    return {
        "url": settings.base_url,
        "port": settings.engine_address[1],
        "models_dir": settings.ollama_models,
        "aliases": " ".join(alias.names(settings, choice)),
        "extras": " ".join(extra.name for extra in extras_wanted(settings, choice)),
        "placement": choice.placement,
        "gpu_kind": kind,
        "gpus": len(cards),
        "for_ever": 1 if keep_alive.startswith("-") else "",
    }


@cache
def script() -> str:
    """What the timer runs."""
    home = resources.files("r1fleet.watch")
    parts = ("look.sh", "judge.sh", "tell.sh")
    return "\n".join((home / part).read_text(encoding="ascii") for part in parts)
