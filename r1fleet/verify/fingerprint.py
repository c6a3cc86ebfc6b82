"""What was verified, and whether it still stands. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from r1fleet import paths
from r1fleet.hostfacts import Probe
from r1fleet.outcome import Smoke
from r1fleet.verify.extras import ExtraWanted
from r1fleet.verify.judge import SmokeWanted

SCHEMA = 1


def fingerprint(probe: Probe, want: SmokeWanted, extras: tuple[ExtraWanted, ...] = ()) -> str:
    """All that a verification rests on, as one SHA-256 (hex). Take the last probe of the run.

    The boot and the service's start are in it because GPUs are looked for once per start.
    """
    inputs = {
        "driver": probe.driver.loaded,
        "engine": probe.engine_current,
        "files": _files(probe),
        "boot_id": probe.boot_id,
        "invocation": probe.unit("ollama.service").invocation,
        # The digest, the prompt and the limits; names of the same weights come and go.
        "smoke": {**asdict(want), "same_weights": ()},
        "extras": [asdict(extra) for extra in extras],
    }
    return _sha256(inputs)


def settings_stamp(probe: Probe, want: SmokeWanted, extras: tuple[ExtraWanted, ...] = ()) -> str:
    """What the settings alone make of a host, as 12 hex digits: a reboot, a newer driver or
    another digest of the same tag leave it as it is."""
    asked = [asdict(want), *(asdict(extra) for extra in extras)]
    plain = [{key: value for key, value in one.items() if key != "digest"} for one in asked]
    return _sha256({"files": _files(probe), "asked": plain})[:12]


def _files(probe: Probe) -> dict[str, str | None]:
    read = (paths.ENGINE_ENV, paths.ENGINE_UNIT, paths.ENGINE_HARDENING)
    return {path: probe.files.get(path) for path in read}


def _sha256(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def is_fresh(state: Mapping[str, Any], fingerprint: str, now: datetime, max_age_s: float) -> bool:
    """Whether state.json remembers this very verification from within the last `max_age_s`."""
    verified = state.get("verified")
    if not isinstance(verified, dict) or verified.get("fingerprint") != fingerprint:
        return False
    try:
        age_s = (now - datetime.fromisoformat(str(verified.get("at")))).total_seconds()
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return False
    return 0 <= age_s <= max_age_s


def verified_entry(smoke: Smoke, fingerprint: str, model: str, settings: str) -> dict[str, Any]:
    """What state.json records under "verified"; `settings` is their stamp."""
    return {
        "fingerprint": fingerprint,
        "model": model,
        "settings": settings,
        "at": smoke.at,
        "answer": smoke.answer,
        "thinking": smoke.thinking,
        "load_s": smoke.load_s,
        "tokens_per_s": smoke.tokens_per_s,
        "residency": smoke.residency,
        "context": smoke.context,
        "digest": smoke.digest,
    }


def remembered(state: Mapping[str, Any]) -> Smoke | None:
    """The figures of the last verification, for the report; None when there are none."""
    verified = state.get("verified")
    if not isinstance(verified, dict):
        return None
    try:
        return Smoke(**{field.name: verified[field.name] for field in fields(Smoke)})
    except KeyError:
        return None


def proven_model(state: Mapping[str, Any]) -> str | None:
    """The model of the last verification, as name:tag."""
    verified = state.get("verified")
    found = verified.get("model") if isinstance(verified, dict) else None
    return found if isinstance(found, str) else None


def state(
    decision: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    verified: Mapping[str, Any] | None,
    models_mount: tuple[str, str],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole of state.json: what was chosen and from what, what is installed and proven.

    + decision: the choice with its inputs
    + models: name -> model.manifest.state_entry
    + verified: verified_entry, or None when nothing is proven
    + models_mount: the model directory and the mount point it lies on
    + more: alias, former tags and what is kept for a way back (handover.py)
    """
    return {
        "schema": SCHEMA,
        "decision": dict(decision),
        "models": {name: dict(entry) for name, entry in models.items()},
        "verified": dict(verified) if verified else None,
        "models_mount": list(models_mount),
        **(more or {}),
    }
