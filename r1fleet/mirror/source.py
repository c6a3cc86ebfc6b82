"""Where a host fetches from: the mirror as soon as it answers, else the source by setting."""

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import decide, outcome
from r1fleet.engine import wanted
from r1fleet.hostfacts import Probe
from r1fleet.mirror.plan import ABOUT
from r1fleet.model import manifest as manifests
from r1fleet.model.manifest import ModelWanted
from r1fleet.remote import HostFailure, host_task, say, warn
from r1fleet.remote import run as remote
from r1fleet.settings import Settings
from r1fleet.shell import assign
from r1fleet.sizing import Choice

if TYPE_CHECKING:
    from r1fleet.fleet import HostRun

Commands = Generator[FunctionCommand, None, None]

# A mirror of this very run may still be installing nginx; any other one answers at once.
COMING_S = 300

_ASK = """
i=0
until said=$(curl -fsS --noproxy '*' --connect-timeout 5 -m 10 "$URL" 2>&1); do
  i=$((i + 1))
  [ $i -lt 3 ] || { printf '%s\\n' "$said" >&2; exit 1; }
  sleep 1
done
printf '%s\\n' "$said"
"""


@operation()
def settle(run: "HostRun", probe: Probe, choice: Choice) -> Commands:
    """Decide where the host fetches from, if it has a mirror and lacks something.

    A mirror that this very run sets up is waited for; one that does not answer is passed over or
    ends the host, as mirror_fallback says.

    + run: the host's settings; its `source` is filled in
    + probe: the host as it is
    + choice: the size that it shall serve
    """
    url = run.settings.mirror_url
    if run.settings.bundle:
        return
    if url and not run.source.settled and lacks(run.settings, probe, choice):
        yield ask("mirror", f"asks the mirror {url}", run)


def lacks(settings: Settings, probe: Probe, choice: Choice) -> bool:
    """Whether something of engine and models has to be fetched for a choice."""
    wants = (decide.model_wanted(settings, choice), *decide.extras_wanted(settings, choice))
    archive = wanted.archive_for(settings, choice, probe)
    return archive.key not in probe.engine_versions or not all(has(probe, one) for one in wants)


def has(probe: Probe, want: ModelWanted) -> bool:
    """Whether the host has a model whole, by its records."""
    digest = manifests.accepted_digest(want, probe.models)
    known = manifests.recorded(probe.state, want.name, digest) if digest else None
    return known is not None and not manifests.missing(known, probe.models.blobs)


@host_task
def ask(host: Host, stage: str, title: str, run: "HostRun") -> None:
    """Wait for the mirror's answer and set the run's source by it."""
    settings, source = run.settings, run.source
    url = settings.mirror_url or ""
    say(host, stage, title)
    deadline, told = time.monotonic() + COMING_S, False
    while True:
        answer = remote(host, assign({"URL": url + ABOUT}) + _ASK)
        other = _other_sources(settings, answer.stdout)
        ready = answer.ok and not other  # one that stands for something else may be changing
        if ready or not coming(run.mirror_host) or time.monotonic() > deadline:
            break
        if not told:
            say(host, stage, f"waits for {run.mirror_host}, which is being made a mirror")
            told = True
        time.sleep(1)
    source.settled, source.fallback = True, settings.mirror_fallback
    if answer.ok:
        source.models = None if "registry" in other else url
        source.engine = None if "engine" in other else url
        if other:
            sources = ", ".join(f"{kind} {there}" for kind, there in other.items())
            text = f"the mirror stands for {sources}, not for this host's; goes to the source"
            say(host, stage, text)
    elif settings.mirror_fallback:
        warn(host, f"the mirror {url} {_why(answer.reason)}; fetched from the source")
    else:
        what = f"the mirror {url}"
        fix = "put it right, or set mirror_fallback: True to fetch from the source"
        raise HostFailure(what, _why(answer.reason), fix)


def _other_sources(settings: Settings, answer: str) -> dict[str, str]:
    """What a mirror says that it stands for, as far as that is not what these settings name."""
    told = dict(line.split(" ", 1) for line in answer.splitlines() if " " in line)
    wanted_here = {"registry": settings.registry_url, "engine": settings.engine_url}
    return {
        kind: told.get(kind, "nothing")
        for kind, source in wanted_here.items()
        if told.get(kind) != source
    }


def coming(name: str | None) -> bool:
    """Whether the mirror on a host of this run is still being made."""
    if name is None:
        return False
    found = outcome.of(name)
    return found.probe is not None and not found.mirrors and found.failure is None


def _why(reason: str) -> str:
    if "403" in reason:
        return "refuses this host (403): its address is not in mirror_allow"
    return f"does not answer: {reason}"
