"""Rough tokens per second of one request: every weight is read once per token. Pure.

The shares of the nominal bandwidth that are reached in practice are rules of thumb: 55 % on a GPU
(published llama.cpp figures lie between 40 and 70 %), 80 % in host memory.
"""

from dataclasses import replace

from r1fleet import memory
from r1fleet.sizing_types import Choice, Gpu, Hardware

GPU_SHARE, RAM_SHARE = 0.55, 0.8


def with_speed(choice: Choice, hardware: Hardware) -> Choice:
    """The choice with its expected speed, where the memory's bandwidth is known."""
    known = memory.weights(choice.model)
    read = (sum(known.layers) + known.output) * choice.model.shape.active_share
    layers = choice.layers or 1
    on_gpu = read * choice.layers_on_gpu / layers
    cards = [gpu for gpu in hardware.gpus if _serves(gpu, choice)]
    gb_s = _together(cards)
    if on_gpu and gb_s is None:
        return replace(choice, speed_basis="the memory bandwidth of a GPU is unknown")
    parts, seconds = [], 0.0
    for what, size, bandwidth, share in (
        ("on the GPU", on_gpu, gb_s or 0.0, GPU_SHARE),
        ("in host memory", read - on_gpu, hardware.ram_gb_s, RAM_SHARE),
    ):
        if size >= 1 and bandwidth:
            seconds += size / (bandwidth * 1e9 * share)
            parts.append(f"{size / 1e9:.1f} GB {what} at {bandwidth:g} GB/s x {share}")
    if not seconds:
        return choice
    basis = f"rough: each token reads {' and '.join(parts)}"
    return replace(choice, expected_tokens_per_s=round(1 / seconds, 2), speed_basis=basis)


def _serves(gpu: Gpu, choice: Choice) -> bool:
    return gpu.index in choice.gpus and gpu.mig_uuid == choice.mig_uuid


def _together(cards: list[Gpu]) -> float | None:
    """Bandwidth of cards that work one after another on layers dealt by their memory."""
    if not cards or any(not card.bandwidth_gb_s for card in cards):
        return None
    total = sum(card.vram_mib for card in cards)
    return round(total / sum(card.vram_mib / (card.bandwidth_gb_s or 1) for card in cards), 1)
