"""What the report keeps of a host's size. Pure."""

from typing import Any

from r1fleet import decide
from r1fleet.hostfacts import Probe
from r1fleet.model import manifest
from r1fleet.outcome import Outcome
from r1fleet.plan_data import sizing_data
from r1fleet.settings import Settings
from r1fleet.sizing import Choice


def host_plan(found: Outcome, settings: Settings) -> dict[str, Any] | None:
    """The size with its reasons; None when it came to none.

    `models` are wanted from a registry, `installed` are there. `download_bytes` are to come by the
    catalogue's size, 0 when the model is there, whole.
    """
    if found.sizing is None or found.probe is None:
        return None
    choice = found.sizing.choice
    there = choice is not None and _is_there(settings, found.probe, choice)
    if choice and settings.adopt == "auto":  # what is taken over need not come
        path = decide.model_wanted(settings, choice).manifest_path
        there = there or any(path in one.models for one in found.probe.existing)
    return {
        **sizing_data(found.sizing),
        "would_now_choose": found.kept_over,
        "models": _models(settings, choice) if choice else {},
        "installed": manifest.installed_digests(found.probe.models),
        "download_bytes": choice.model.size_bytes if choice and not there else 0,
    }


def _models(settings: Settings, choice: Choice) -> dict[str, Any]:
    """What is to be had from a registry, and from which."""
    wants = (decide.model_wanted(settings, choice), *decide.extras_wanted(settings, choice))
    return {
        want.name: {"registry_url": want.registry_url, "pinned": want.digest}
        for want in wants
        if want.source is None
    }


def _is_there(settings: Settings, probe: Probe, choice: Choice) -> bool:
    want = decide.model_wanted(settings, choice)
    digest = manifest.accepted_digest(want, probe.models)
    known = manifest.recorded(probe.state, want.name, digest) if digest else None
    return known is not None and not manifest.missing(known, probe.models.blobs)
