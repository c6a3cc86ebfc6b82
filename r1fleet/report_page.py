"""The JSON report of a run as a page: one file, no script, nothing fetched. Pure."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from r1fleet.model.manifest import human
from r1fleet.templates import render_html
from r1fleet.words import short

SCHEMA = 1
KINDS = {"as wanted": "good", "changed": "change", "would change": "change", "held": "change"}
QUIET = ("maintenance", "untouched", "not looked at")
NONE = "-"


class PageError(ValueError):
    """A document that is no report of ours; the message says why, in one line."""


def page(report: Any, title: str = "Fleet report") -> str:
    """The page of a report, as `--data report=FILE` wrote it. Raises PageError."""
    if not isinstance(report, dict) or "schema" not in report or "hosts" not in report:
        raise PageError("this is no report of r1fleet (run with --data report=FILE)")
    if report["schema"] != SCHEMA:
        raise PageError(f"the report has schema {report['schema']}, this r1fleet reads {SCHEMA}")
    try:
        return render_html("report.html", **_whole(report), title=title)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PageError(f"the report is not whole ({type(error).__name__}: {error})") from error


def _whole(report: Mapping[str, Any]) -> dict[str, Any]:
    rollout = report["rollout"]
    counts = [f"{count} {verdict}" for verdict, count in report["counts"].items()]
    return {
        "schema": report["schema"],
        "at": report["at"],
        "at_told": datetime.fromisoformat(report["at"]).strftime("%d %B %Y, %H:%M %Z"),
        "dry_run": report["dry_run"],
        "counts": ", ".join(counts),
        "banners": list(_banners(report, rollout)),
        "waves": list(_waves(rollout)),
        "hosts": [_host(row, number) for number, row in enumerate(report["hosts"].values())],
    }


def _banners(report: Mapping[str, Any], rollout: Mapping[str, Any]) -> Iterator[str]:
    if report["interrupted"]:
        yield "The run was interrupted: what has begun on a host goes on there."
    if rollout["stopped"]:
        text = f"The rollout stopped: {rollout['stopped']}"
        yield f"{text}; {rollout['fix']}" if rollout.get("fix") else text


def _waves(rollout: Mapping[str, Any]) -> Iterator[str]:
    for wave in rollout["waves"]:
        yield f"{'canary: ' if wave['canary'] else ''}{', '.join(wave['hosts'])}"


def _host(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    plan = row.get("plan") or {}
    chosen = plan.get("chosen") or {}
    return {
        "name": row["host"],
        "anchor": f"host-{number}-{re.sub('[^A-Za-z0-9]+', '-', row['host'])}",
        "gpus": ", ".join(row["gpus"]) or "none",
        "model": _model(row),
        "context": row["context"] or NONE,
        "on_gpu": _percent(row["residency"]),
        "tokens_per_s": NONE if row["tokens_per_s"] is None else f"{row['tokens_per_s']:.1f}",
        "verdict": row["verdict"],
        "kind": KINDS.get(row["verdict"], "quiet" if row["verdict"] in QUIET else "bad"),
        "reason": row["reason"],
        "hardware": _hardware(plan.get("hardware")),
        "compared": list(_compared(row, chosen)) if chosen else [],
        "memory": list(_memory(plan, chosen)),
        "lists": [(name, lines) for name, lines in _lists(row, chosen) if lines],
        "candidates": plan.get("candidates") or [],
    }


def _model(row: Mapping[str, Any]) -> str:
    more = ", ".join(str(row[key]) for key in ("base_model", "quantisation") if row[key])
    return f"{row['tag']} ({more})" if row["tag"] and more else row["tag"] or NONE


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"


def _hardware(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    estimated = " (estimated)" if found["estimated"] else ""
    vram = sum(gpu["vram_mib"] for gpu in found["gpus"])
    parts = [f"{vram} MiB VRAM{estimated}"] if found["gpus"] else []
    parts += [f"{found['ram_mib']} MiB RAM", f"{found['cores']} cores"]
    return ", ".join([*parts, f"{found['disk_free_mib']} MiB of disk free"])


def _compared(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the plan promised beside what the proof found; nothing is found of a dry run."""
    pairs = [
        ("tag", chosen["tag"], row["tag"]),
        ("context", chosen["context"], row["context"]),
        ("layers on the GPUs", f"{chosen['gpu_percent']:.0f}%", _percent(row["residency"])),
        (
            "tokens/s",
            _speed(chosen["expected_tokens_per_s"], "about "),
            _speed(row["tokens_per_s"]),
        ),
        ("digest", NONE, short(row["digest"]) if row["digest"] else NONE),
        ("proven", NONE, row["verified_at"] or NONE),
    ]
    proven = row["verified_at"] is not None
    for name, planned, found in pairs:
        told = found if proven or name in ("digest", "proven") else NONE
        exact = name in ("tag", "context", "layers on the GPUs")
        differs = exact and proven and str(planned) != str(told)
        yield {"name": name, "planned": planned, "found": told, "differs": differs}


def _speed(tokens_per_s: float | None, about: str = "") -> str:
    return NONE if tokens_per_s is None else f"{about}{tokens_per_s:.1f}"


def _memory(plan: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The planned share of each card that holds a part of the model."""
    cards = {gpu["index"]: gpu for gpu in (plan.get("hardware") or {}).get("gpus", ())}
    for index, needed in zip(chosen.get("gpus", ()), chosen.get("needed_mib", ()), strict=False):
        card = cards[index]
        percent = min(100.0, 100 * needed / card["vram_mib"])
        told = f"{needed} of {card['vram_mib']} MiB planned"
        yield {"name": card["name"], "percent": f"{percent:.1f}", "told": told}


def _lists(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    dry = row["verdict"] == "would change"
    yield "What would change" if dry else "What changed", row["changes"]
    yield "Warnings", row["warnings"]
    yield "Notes", row["notes"]
    if chosen:
        size = human(chosen["download_bytes"])
        yield "The choice", [chosen["reason"], f"download {size}", *chosen["warnings"]]
    yield "Own prompts", [_prompt(one) for one in row["golden"]]


def _prompt(played: Mapping[str, Any]) -> str:
    """One of golden.yaml, the former model's answer beside the new one's."""
    told = [f"{played['prompt']}: {played['verdict']}"]
    for name, side in (("former", played["old"]), ("new", played["new"])):
        if side:
            holds = f"fails ({side['failed']})" if side["failed"] else "holds"
            speed = (
                f"{side['thinking_chars']} characters of thinking, {side['tokens_per_s']} tokens/s"
            )
            told.append(f"{name} {holds}, {speed}")
    return "; ".join(told)
