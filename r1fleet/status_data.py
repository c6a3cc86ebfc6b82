"""What `r1fleet status` tells of a host, as plain values for JSON and the table. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from r1fleet.drift import ABSENT, Drift, loaded_row, proof_age_s
from r1fleet.driver.health import fault
from r1fleet.hostfacts import Probe, SmiGpu, json_object
from r1fleet.model.manifest import REGISTRY, manifest_path
from r1fleet.settings import Settings
from r1fleet.sisters import compare
from r1fleet.sizing import Choice
from r1fleet.verify.fingerprint import remembered
from r1fleet.watch import said

SCHEMA = 1

# Worst first; see design.md for the codes.
CODES = {"failed": 1, "refused": 1, "unreachable": 3, "held": 5, "drift": 4, "as wanted": 0}


def exit_code(verdicts: Iterable[str]) -> int:
    """Of a fleet with these verdicts: the worst one's."""
    found = set(verdicts)
    return next((code for verdict, code in CODES.items() if verdict in found), 0)


def whole(rows: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    """All that `status --json` prints."""
    counts = {"hosts": len(rows), **Counter(str(row["verdict"]) for row in rows)}
    slower = compare(rows)
    hosts = {row["host"]: {**row, "slower": slower.get(row["host"])} for row in rows}
    return {"schema": SCHEMA, "at": _iso(now), "counts": counts, "hosts": hosts}


def silent_row(host: str, verdict: str, reason: str) -> dict[str, Any]:
    """The row of a host of which nothing is known."""
    known = ("driver", "engine", "tag", "digest", "alias", "context", "placement", "residency")
    proof = (
        "verified_at",
        "verified_age_s",
        "tokens_per_s",
        "proven_digest",
        "disk_free_bytes",
        "lease",
        "watch",
    )
    empty = dict.fromkeys((*known, *proof))
    lists = ("drift", "pending", "warnings", "cards", "others_on_gpu")
    listed: dict[str, list[Any]] = {name: [] for name in lists}
    return {"host": host, "verdict": verdict, "reason": reason, **empty, **listed}


def row(
    host: str,
    settings: Settings,
    probe: Probe,
    choice: Choice | None,
    drift: Sequence[Drift],
    pending: Sequence[str],
    refusal: str | None,
    warnings: Sequence[str],
    now: datetime,
    *,
    is_left: bool = False,
) -> dict[str, Any]:
    """The row of a host that answered.

    + choice: the size that is wanted there
    + pending, refusal: what a run would do, and why it would stop, by rollout.preview
    + is_left: its lease is of a run that is gone
    """
    held = lease(probe, now, is_left=is_left)
    proof = remembered(probe.state)
    age_s = proof_age_s(probe, now)
    is_there = ABSENT[0] not in {item.kind for item in drift}  # models may stay after a removal
    return {
        **silent_row(host, _verdict(held, refusal, drift), refusal or ""),
        "reason": refusal,
        "driver": _driver(probe, settings),
        "engine": {"answers": probe.engine_version, "live": probe.engine_current},
        **(_served(settings, probe, choice) if is_there else {}),
        "alias": aliases(settings, probe) if is_there else None,
        "verified_at": proof.at if proof else None,
        "verified_age_s": None if age_s is None else max(0, round(age_s)),
        "tokens_per_s": proof.tokens_per_s if proof else None,
        "proven_digest": f"sha256:{proof.digest.removeprefix('sha256:')}" if proof else None,
        "disk_free_bytes": probe.models.disk_free_bytes,
        "lease": held,
        "watch": said.facts(probe, now),
        "drift": [{"kind": item.kind, "what": item.what} for item in drift],
        "pending": [step.strip() for step in pending],
        "warnings": list(warnings),
        "cards": [_card(gpu) for gpu in probe.driver.gpus],
        "others_on_gpu": sorted(_others(probe)),
    }


def lease(probe: Probe, now: datetime, *, is_left: bool) -> dict[str, Any] | None:
    """Who holds the host, and whether that time is over, by the host's clock; None when nobody."""
    written = json_object(probe.lease[0]) if probe.lease else {}
    names = ("run", "who", "since", "until")
    found = {name: str(written[name]) for name in names if name in written}
    if len(found) < len(names):
        return None
    try:
        clock = datetime.fromisoformat(probe.lease[1]) if len(probe.lease) > 1 else now
        over = datetime.fromisoformat(found["until"]) <= clock
    except (ValueError, TypeError):  # TypeError: a time without a zone
        over = True
    return {**found, "is_over": over, "is_left": is_left and not over}


def aliases(settings: Settings, probe: Probe) -> dict[str, str]:
    """The model's stable names on the host, with the digest that each points to."""
    if settings.alias is None:
        return {}
    path = manifest_path(settings.alias)
    return {
        f"{settings.alias}{found.removeprefix(path)}": f"sha256:{digest}"
        for found, digest in probe.models.manifests.items()
        if found == path or found.startswith(f"{path}-")
    }


def _digests(settings: Settings, probe: Probe) -> dict[str, str]:
    """The model's tags on the host: tag -> 64 hex."""
    name = settings.model if "/" in settings.model else f"library/{settings.model}"
    head = f"{REGISTRY}/{name}/"
    return {
        path.removeprefix(head): digest
        for path, digest in probe.models.manifests.items()
        if path.startswith(head)
    }


def _served(settings: Settings, probe: Probe, choice: Choice | None) -> dict[str, Any]:
    """The model that the host serves: the loaded one, else the wanted one if it is there."""
    tags = _digests(settings, probe)
    stable = set(aliases(settings, probe))
    plain = {digest: tag for tag, digest in tags.items() if f"{settings.model}:{tag}" not in stable}
    loaded = [row for row in probe.loaded if row.digest in tags.values()]
    wanted = tags.get(choice.tag) if choice else None
    digest = wanted if wanted and loaded_row(probe, wanted) else None
    digest = digest or (loaded[0].digest if loaded else wanted)
    loaded_now = loaded_row(probe, digest) if digest else None
    return {
        "tag": plain.get(digest) if digest else None,
        "digest": f"sha256:{digest}" if digest else None,
        "context": loaded_now.context if loaded_now else None,
        "placement": choice.placement if choice else None,
        "residency": round(loaded_now.residency, 4) if loaded_now else None,
    }


def _driver(probe: Probe, settings: Settings) -> dict[str, Any] | None:
    """None where there is no NVIDIA GPU."""
    if not probe.nvidia_gpus:
        return None
    found = fault(probe, settings.driver_min_version)
    return {
        "version": probe.driver.library or probe.driver.on_disk,
        "loaded": probe.driver.loaded,
        "open": probe.driver.open_module,
        "fault": found.what if found else None,
    }


def _card(gpu: SmiGpu) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "pcie_width": _figure(gpu.health.get("pcie.link.width.current")),
        "power_limit_w": _figure(gpu.health.get("power.limit")),
        "temperature_c": _figure(gpu.health.get("temperature.gpu")),
    }


def _figure(text: str | None) -> float | None:
    """What nvidia-smi printed, or None for "[N/A]" and the like."""
    try:
        return float(text or "")
    except ValueError:
        return None


def _others(probe: Probe) -> set[str]:
    """Names of the processes on the GPUs that are not the engine's."""
    names = {process.name.rpartition("/")[2] for process in probe.driver.processes}
    return names - {"llama-server", "ollama"}


def _verdict(held: Mapping[str, Any] | None, refusal: str | None, drift: Sequence[Drift]) -> str:
    if held and not held["is_over"] and not held["is_left"]:
        return "held"
    if refusal:
        return "refused"
    return "drift" if drift else "as wanted"


def _iso(now: datetime) -> str:
    return now.isoformat(timespec="seconds")
