"""What fits hardware that is only described: every tag in every quantisation, without any host."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from r1fleet import catalog
from r1fleet.catalog import ModelTag, by_name
from r1fleet.hardware import apple_mib, unified_mib
from r1fleet.placement import CONTEXT_STEP
from r1fleet.settings import Settings, read
from r1fleet.sizing import Choice, Gpu, Hardware, Policy, Sizing, choose, policy

GIB_MIB = 1024

Verdict = Literal["fits", "offload", "cpu", "too big"]


@dataclass(frozen=True)
class Row:
    """One tag on this hardware.

    + least: how it sits with the least wanted context; None when it does not
    + context: the largest that its placement allows, 0 when there is none
    + reason: of the placement, or why there is none
    """

    model: ModelTag
    verdict: Verdict
    least: Choice | None
    context: int
    reason: str


@dataclass(frozen=True)
class Fit:
    """The hardware, what would be chosen there, and every tag."""

    policy: Policy
    sizing: Sizing
    rows: tuple[Row, ...]


def described(gpus: Iterable[str], ram_gib: float, disk_gib: float | None, cores: int) -> Hardware:
    """Hardware from names and sizes. Raises UnknownGpu (a ValueError), or ValueError for sizes."""
    for what, value in (("--ram", ram_gib), ("--disk", disk_gib), ("--cores", cores)):
        if value is not None and not 0 <= value < 10**7:
            raise ValueError(f"{what} is {value:g}; give a number from 0 to 10 million")
    ram_mib = round(ram_gib * GIB_MIB)
    cards = tuple(card(by_name.find(name), index, ram_mib) for index, name in enumerate(gpus))
    return Hardware(
        gpus=cards,
        ram_mib=ram_mib,
        cores=cores,
        disk_free_mib=None if disk_gib is None else round(disk_gib * GIB_MIB),
    )


def card(known: catalog.GpuInfo, index: int, ram_mib: int) -> Gpu:
    """A card of the catalogue in a host with so much memory."""
    shared = apple_mib(ram_mib) if known.vendor == "apple" else unified_mib(ram_mib)
    return Gpu(
        index=index,
        name=known.name,
        vram_mib=shared if known.vram_mib is None else known.vram_mib,
        compute_capability=known.compute_capability,
        bandwidth_gb_s=known.bandwidth_gb_s,
        unified=known.unified,
        vendor=known.vendor,
    )


def settings_of(data: Iterable[str], given: Mapping[str, object]) -> Settings:
    """Settings from `key=value` texts and from options that were given (not None).

    Raises SettingsError with a line for each fault.
    """
    found: dict[str, object] = {}
    for text in data:
        key, _, value = text.partition("=")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    found |= {key: value for key, value in given.items() if value is not None}
    return read("fit", found)


def fit(hardware: Hardware, settings: Settings) -> Fit:
    """What would be chosen, and how every tag would sit."""
    wanted = policy(settings)
    rows = tuple(_row(hardware, wanted, model) for model in reversed(catalog.models()))
    return Fit(wanted, choose(hardware, wanted), rows)


def _row(hardware: Hardware, wanted: Policy, model: ModelTag) -> Row:
    """The tag wholly on the GPUs, else with layers in host memory, else on the CPU alone."""
    reason = ""
    ways: tuple[tuple[Verdict, Literal["gpu", "offload", "cpu"]], ...] = (
        ("fits", "gpu"),
        ("offload", "offload"),
        ("cpu", "cpu"),
    )
    for verdict, placement in ways:
        only = replace(wanted, tag=model.tag, placement=placement, no_gpu="refuse")
        only = replace(only, offload_min_percent=1, tokens_per_s_min=0.0)
        exact = replace(only, context_max=only.context_min)
        sizing = choose(hardware, exact)
        if sizing.choice and sizing.choice.placement == placement:
            context = _largest_context(hardware, only, sizing.choice)
            return Row(model, verdict, sizing.choice, context, sizing.choice.reason)
        reason = reason or _why(sizing)
    return Row(model, "too big", None, 0, reason)


def _largest_context(hardware: Hardware, only: Policy, least: Choice) -> int:
    """The largest context that the model takes in the same placement and type of cache."""
    low = least.context // CONTEXT_STEP
    high = max(least.model.shape.context_max // CONTEXT_STEP, low) + 1
    while high - low > 1:
        middle = (low + high) // 2
        tokens = middle * CONTEXT_STEP
        wish = replace(only, context_min=tokens, context_max=tokens, kv_types=(least.kv_type,))
        found = choose(hardware, wish).choice
        low, high = (middle, high) if found else (low, middle)
    return max(low * CONTEXT_STEP, least.context)


def _why(sizing: Sizing) -> str:
    """The reason of the only candidate; without one, of the host."""
    return next((candidate.reason for candidate in sizing.candidates), sizing.refusal or "")
