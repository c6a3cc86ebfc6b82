"""A decision is remembered with its inputs and stands until one of them changes. Pure.

Inputs are the cards with their total memory, the host's memory, the policy (with the reserve) and
the catalogue's entry of the chosen tag. What happens to be free is none: a browser, a game or our
own loaded model never flips a tag.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from r1fleet import catalog, paths
from r1fleet.hostfacts import Probe
from r1fleet.sizing import Choice, Hardware, Policy, Sizing, choose
from r1fleet.verify.judge import is_engine

# Used by others on all cards together: below it a desktop's own windows are not worth a word.
WORTH_A_NOTE_MIB = 1024
# MemTotal differs by some MiB from boot to boot, which may cross a whole GiB.
RAM_SLACK_GIB = 1


@dataclass(frozen=True)
class Decision:
    """A size, kept or made now. `kept_over` is what would be chosen now, where that differs."""

    sizing: Sizing
    kept_over: str | None = None
    notes: tuple[str, ...] = ()


def decide(hardware: Hardware, policy: Policy, probe: Probe) -> Decision:
    """The recorded choice while its inputs stand, else the best one now."""
    sizing, kept_over, notes = choose(hardware, policy), None, []
    recorded = probe.state.get("decision")
    kept = _kept(recorded, hardware, policy) if isinstance(recorded, dict) else None
    if kept and (kept_over := _differs(kept, sizing)):
        # Its warnings were of the day it was made.
        sizing = replace(sizing, choice=replace(kept, warnings=()), refusal=None)
        notes.append(_note(kept_over, policy))
    notes += _used_by_others(probe, sizing.choice)
    return Decision(sizing, kept_over, tuple(notes))


def tried(state: Mapping[str, Any], choice: Choice) -> dict[str, Any] | None:
    """What trying on this very choice gave, by the record; None when it was not tried."""
    recorded = state.get("decision")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("tried"), dict):
        return None
    same = recorded.get("choice") == record_of(choice)
    return recorded["tried"] if same else None


def record(sizing: Sizing, policy: Policy, tried: Mapping[str, Any] | None) -> dict[str, Any]:
    """What state.json keeps: the choice, and all that it was made from.

    `tried` is what trying it on gave; None where it was not.
    """
    choice = sizing.chosen
    return {
        "tried": dict(tried) if tried else None,
        "choice": record_of(choice),
        "inputs": _inputs(sizing.hardware, policy, choice),
    }


def record_of(choice: Choice) -> dict[str, Any]:
    """A choice as it is recorded."""
    return {**_plain(choice), "model": choice.model.long_name}


def _kept(recorded: Mapping[str, Any], hardware: Hardware, policy: Policy) -> Choice | None:
    """The recorded choice; None when an input changed or the record cannot be read."""
    chosen, before = recorded.get("choice"), recorded.get("inputs")
    if not isinstance(chosen, dict) or not isinstance(before, dict):
        return None
    try:
        model = catalog.find_tag(chosen["model"])
        choice = _reader().validate_python({**chosen, "model": model})
    except (KeyError, TypeError, ValidationError):
        return None
    now = _inputs(hardware, policy, choice)
    ram_before, ram_now = before.get("ram_gib"), now["ram_gib"]
    if not isinstance(ram_before, int) or abs(ram_before - ram_now) > RAM_SLACK_GIB:
        return None
    return choice if {**before, "ram_gib": ram_now} == now else None


@cache
def _reader() -> TypeAdapter[Choice]:
    return TypeAdapter(Choice)  # made once: it takes longer than all the rest of a decision


def _inputs(hardware: Hardware, policy: Policy, choice: Choice) -> dict[str, Any]:
    """As JSON would give it back. Of memory shared with the host whole GiB count."""
    entry = choice.model.model_dump_json().encode()
    return {
        "gpus": [
            [
                gpu.name,
                round(gpu.vram_mib / 1024) * 1024 if gpu.unified else gpu.vram_mib,
                gpu.mig_uuid,
            ]
            for gpu in hardware.gpus
        ],
        "ram_gib": round(hardware.ram_mib / 1024),
        "policy": _plain(policy),
        "catalogue_entry": hashlib.sha256(entry).hexdigest(),
    }


def _plain(value: Choice | Policy) -> dict[str, Any]:
    """A dataclass as JSON would give it back, less the catalogue's entry: tuples are lists."""
    return {
        field.name: _listed(getattr(value, field.name))
        for field in fields(value)
        if isinstance(value, Policy) or field.name not in ("model", "warnings")
    }


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def _differs(kept: Choice, now: Sizing) -> str | None:
    """What would be chosen now, in words; None when it is the same."""
    if now.choice is None:
        return f"nothing: {now.refusal}"
    same = ("tag", "placement", "context", "kv_type", "parallel", "gpus")
    if all(getattr(kept, name) == getattr(now.choice, name) for name in same):
        return None
    best = now.choice
    return f"{best.tag}, context {best.context}, {best.kv_type} cache, placement {best.placement}"


def _note(kept_over: str, policy: Policy) -> str:
    way = "change it by another policy" if policy.tag else "to take it, set tag"
    return (
        f"the recorded decision stands, nothing that it rests on has changed; would now choose "
        f"{kept_over} ({way}, or remove {paths.STATE_FILE} there)"
    )


def _used_by_others(probe: Probe, choice: Choice | None) -> Iterator[str]:
    """A note on GPU memory that is taken by others; it moves no decision."""
    if choice is None or choice.placement == "cpu":
        return
    ours = [process for process in probe.driver.processes if is_engine(process.name)]
    others = [process for process in probe.driver.processes if process not in ours]
    used_mib = sum(gpu.memory_used_mib or 0 for gpu in probe.driver.gpus)
    used_mib -= sum(process.used_mib or 0 for process in ours)
    if used_mib < WORTH_A_NOTE_MIB:
        return
    names = ", ".join(f"{process.name} (pid {process.pid})" for process in others)
    yield (
        f"{used_mib} MiB of GPU memory are used by {names or 'others'}: {choice.tag} stays, it was "
        "chosen by total memory, but its next load may not find the room (vram_reserve_mib)"
    )
