"""The end of a run: one table for people, the same as JSON for machines."""

import atexit
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyinfra.api import State
from pyinfra.api.state import StateStage

from r1fleet import catalog, live, outcome
from r1fleet.gateway import pool
from r1fleet.outcome import Outcome
from r1fleet.plan_host import host_plan
from r1fleet.settings import Settings
from r1fleet.verify.fingerprint import proven_model, remembered
from r1fleet.words import plain

SCHEMA = 1


class _Report:
    """Shown once, at exit: pyinfra runs no operation any more once every host has failed."""

    state: State | None = None
    settings: Mapping[str, Settings] = {}


def at_exit(state: State, settings: Mapping[str, Settings]) -> None:
    """Show the report of this run when the process ends, however it ends."""
    _Report.state, _Report.settings = state, settings
    atexit.register(show)


def show(interrupted: bool = False) -> None:
    """Print the table and write the JSON report, if the settings name a file for it."""
    live.end()
    state, settings = _Report.state, _Report.settings
    if state is None:
        return
    _Report.state = None
    if interrupted:
        note_unreached()
    rows = rows_of(state, settings)
    data = {
        "schema": SCHEMA,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "interrupted": interrupted,
        "dry_run": not _executed(state),
        "counts": _counts(rows),
        "rollout": _rollout(),
        "hosts": {row["host"]: row for row in rows},
    }
    for path in sorted({member.report for member in settings.values() if member.report}):
        _write(Path(path), data)
    _print(plain(rows), dry=not _executed(state), settings=settings)


def note_unreached() -> None:
    """An interrupted run: hosts of waves that had not begun are untouched."""
    for wave in outcome.rollout.plan.waves if outcome.rollout.plan else ():
        for host in wave.hosts:
            found = outcome.of(host)
            if not (found.done or found.failure or found.stage or found.untouched):
                found.untouched = f"the run was interrupted before {wave}"


def _rollout() -> dict[str, Any]:
    """The waves, and why they stopped, if they did."""
    found, plan = outcome.rollout, outcome.rollout.plan
    waves = plan.waves if plan else ()
    return {
        "stopped": found.stopped or (plan.blocked if plan else None),
        "fix": found.fix,
        "at_once": list(plan.at_once) if plan else [],
        "waves": [
            {"wave": wave.number, "canary": wave.canary, "hosts": list(wave.hosts)}
            for wave in waves
        ],
    }


def rows_of(state: State, settings: Mapping[str, Settings]) -> list[dict[str, Any]]:
    """One row per host of the inventory, in its order; plain values only."""
    reached = {host.name for host in state.activated_hosts}
    failed = {host.name for host in state.failed_hosts}
    return [
        row_of(name, outcome.of(name), name in reached, name in failed, _executed(state))
        | {"plan": host_plan(outcome.of(name), settings[name])}
        | _reached_at(state, name, settings[name])
        for name in settings
    ]


def _reached_at(state: State, name: str, settings: Settings) -> dict[str, str]:
    """Who reaches the engine, and where."""
    host = state.inventory.get_host(name)
    address = str(host.data.get("ssh_hostname") or name)
    if pool.GROUP in host.groups:
        return {"expose": "gateway", "url": settings.gateway_url_at(address)}
    return {"expose": settings.expose, "url": settings.client_url(address)}


def row_of(
    host: str, found: Outcome, reached: bool, failed: bool, executed: bool
) -> dict[str, Any]:
    """A row of the report: what is known of one host at the end of the run."""
    choice = found.sizing.choice if found.sizing else None
    smoke = found.smoke  # of this run, or remembered and still standing
    apart = _left_alone(found, reached)
    model, tag = choice.model if choice else None, choice.tag if choice else None
    serves = found.serves  # it went back to another one than was chosen
    if apart and found.probe:  # it never came to what was chosen
        smoke, serves = remembered(found.probe.state), proven_model(found.probe.state)
    if serves:
        tag = serves.partition(":")[2]
        model = catalog.find_tag(tag) if tag in catalog.tag_names() else None
    return {
        "host": host,
        "gpus": _gpu_names(found),
        "vram_mib": _vram_mib(found),
        "vram_estimated": bool(found.sizing and found.sizing.hardware.estimated),
        "tag": tag,
        "base_model": model.base_model if model else None,
        "quantisation": model.quantisation if model else None,
        "placement": choice.placement if choice else None,
        "context": smoke.context if smoke else (choice.context if choice else None),
        "residency": round(smoke.residency, 4) if smoke else None,
        "tokens_per_s": round(smoke.tokens_per_s, 1) if smoke else None,
        "load_s": round(smoke.load_s, 2) if smoke else None,
        "verified_at": smoke.at if smoke else None,
        "digest": smoke.digest if smoke else None,
        "changes": found.changes if executed else found.pending or [],
        "warnings": found.warnings,
        "notes": found.notes,
        "wave": outcome.rollout.plan.wave_of(host) if outcome.rollout.plan else None,
        "golden": found.golden,
        "verdict": apart[0] if apart else _verdict(found, reached, failed, executed),
        "reason": apart[1] if apart else _reason(found, reached, failed),
    }


def _left_alone(found: Outcome, reached: bool) -> tuple[str, str] | None:
    """Verdict and reason of a host that this run had to leave alone."""
    if found.maintenance:
        return "maintenance", found.maintenance
    if reached and found.untouched:
        return "untouched", found.untouched
    if found.failure and found.failed_as == "held":
        return "held", found.failure
    return ("held", found.held) if found.held else None


def _verdict(found: Outcome, reached: bool, failed: bool, executed: bool) -> str:
    if not reached:
        return "unreachable"
    if found.rolled_back or found.failure or failed:
        return "rolled back" if found.rolled_back else "failed"
    if found.sizing is not None and found.sizing.choice is None:
        return "refused"
    if not executed:
        return _planned(found)
    if found.done:
        return "changed" if found.changes else "as wanted"
    return "not finished"


def _planned(found: Outcome) -> str:
    if found.refusal:
        return "refused"
    if found.pending is None:
        return "not looked at"
    return "would change" if found.pending else "as wanted"


def _reason(found: Outcome, reached: bool, failed: bool) -> str | None:
    if not reached:
        return "no SSH connection; try: ssh HOST true"
    if found.failure:
        return found.failure
    if failed:
        return "see the lines above"
    if found.refusal and not found.done:
        return found.refusal
    if found.sizing is not None and found.sizing.choice is None:
        return found.sizing.refusal
    return None


def _gpu_names(found: Outcome) -> list[str]:
    if found.sizing:
        return [gpu.name for gpu in found.sizing.hardware.gpus]
    return [gpu.name for gpu in found.probe.driver.gpus] if found.probe else []


def _vram_mib(found: Outcome) -> int:
    return sum(gpu.vram_mib for gpu in found.sizing.hardware.gpus) if found.sizing else 0


def _executed(state: State) -> bool:
    return state.current_stage >= StateStage.Execute


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts = {"hosts": len(rows)}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    return counts


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        print(f"the report could not be written: {error}", file=sys.stderr)


def _print(rows: list[dict[str, Any]], *, dry: bool, settings: Mapping[str, Settings]) -> None:
    # With --json, stdout belongs to pyinfra's own object.
    stream = sys.stderr if "--json" in sys.argv else sys.stdout
    from r1fleet.report_table import console_on, print_report  # noqa: PLC0415  rich is slow

    print_report(console_on(stream), rows, _rollout(), dry=dry, settings=settings)
