"""A size and its reasons as plain values, for JSON and for the tables. Pure.

`chosen` is the choice in one field, null where there is none; then `refusal` says why.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from r1fleet.fit import Fit, Row
from r1fleet.sizing import Choice, Hardware, Sizing

SCHEMA = 1


def host_rows(hosts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `r1fleet plan` tells of each host, from the rows of a report; `chosen` is one field."""
    empty = dict.fromkeys(("hardware", "chosen", "would_now_choose", "download_bytes"))
    kept = ("host", "verdict", "reason", "changes", "warnings", "notes")
    return [
        {**{name: row[name] for name in kept}, **empty, "candidates": [], **(row["plan"] or {})}
        for row in hosts
    ]


def sizing_data(sizing: Sizing) -> dict[str, Any]:
    """The hardware, the choice and every candidate with its reason."""
    tag = sizing.choice.tag if sizing.choice else None
    verdicts = {
        seen.tag: "would be chosen now" if seen.verdict == "chosen" else seen.verdict
        for seen in sizing.candidates
    }
    if tag:
        verdicts[tag] = "chosen"
    return {
        "hardware": hardware_data(sizing.hardware),
        "chosen": choice_data(sizing.choice) if sizing.choice else None,
        "refusal": sizing.refusal,
        "candidates": [
            {"tag": seen.tag, "verdict": verdicts[seen.tag], "reason": seen.reason}
            for seen in sizing.candidates
        ],
    }


def fit_data(found: Fit) -> dict[str, Any]:
    """What `r1fleet fit --json` prints."""
    return {
        "schema": SCHEMA,
        "context_min": found.policy.context_min,
        "parallel": found.policy.parallel,
        **sizing_data(found.sizing),
        "tags": [row_data(row) for row in found.rows],
    }


def hardware_data(hardware: Hardware) -> dict[str, Any]:
    """The hardware that a size rests on; `estimated` is from PCI ids, before a driver."""
    return {
        "gpus": [
            {"index": gpu.index, "name": gpu.name, "vram_mib": gpu.vram_mib}
            for gpu in hardware.gpus
        ],
        "other_gpus": list(hardware.other_gpus),
        "estimated": hardware.estimated,
        "ram_mib": hardware.ram_mib,
        "cores": hardware.cores,
        "disk_free_mib": hardware.disk_free_mib,
    }


def choice_data(choice: Choice) -> dict[str, Any]:
    """A way to run a model; `margin_mib` is what stays free on the fullest card."""
    return {
        "tag": choice.tag,
        "long_name": choice.model.long_name,
        "base_model": choice.model.base_model,
        "quantisation": choice.model.quantisation,
        "placement": choice.placement,
        "context": choice.context,
        "parallel": choice.parallel,
        "kv_type": choice.kv_type,
        "gpus": list(choice.gpus),
        "needed_mib": list(choice.needed_mib),
        "left_mib": list(choice.left_mib),
        "margin_mib": min(choice.left_mib, default=None),
        "ram_mib": choice.ram_mib,
        "layers_on_gpu": choice.layers_on_gpu,
        "layers": choice.layers,
        "gpu_percent": choice.gpu_percent,
        "download_bytes": choice.model.size_bytes,
        "expected_tokens_per_s": _rounded(choice.expected_tokens_per_s),
        "speed_basis": choice.speed_basis,
        "warnings": list(choice.warnings),
        "reason": choice.reason,
    }


def row_data(row: Row) -> dict[str, Any]:
    """One tag of `fit`; figures for the least context, null where it cannot run."""
    least = row.least
    return {
        "tag": row.model.tag,
        "quantisation": row.model.quantisation,
        "verdict": row.verdict,
        "download_bytes": row.model.size_bytes,
        "needed_mib": list(least.needed_mib) if least else None,
        "left_mib": list(least.left_mib) if least else None,
        "ram_mib": least.ram_mib if least else None,
        "kv_type": least.kv_type if least else None,
        "largest_context": row.context or None,
        "gpu_percent": least.gpu_percent if least else None,
        "expected_tokens_per_s": _rounded(least.expected_tokens_per_s) if least else None,
        "speed_basis": least.speed_basis if least else None,
        "reason": row.reason,
    }


def _rounded(speed: float | None) -> float | None:
    return None if speed is None else round(speed, 1)
