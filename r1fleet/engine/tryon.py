"""Trying a size on before the download: llama.cpp's own word on the very cards of the host.

The host's llama-server is given the head of the wanted tag's file, without weights, and the
arguments of the plan. It says what it is "projected to use", which is held against the total memory
of the cards less the reserve, the CUDA context and llama.cpp's margin; what happens to be free
does not count. That takes about a second and loads nothing.
"""

import base64
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import memory, paths
from r1fleet.engine.gguf_write import HeadFile, head_file
from r1fleet.hostfacts import Probe
from r1fleet.memory import FIT_MARGIN_MIB, MIB
from r1fleet.remote import host_task, run, say, warn
from r1fleet.shell import assign
from r1fleet.sizing import Choice, Gpu, Policy, Sizing

Commands = Generator[FunctionCommand, None, None]

# cuda_v13 is built for compute capability 7.5 and newer and needs a driver of branch 580.
NEWEST_CUDA_FROM, NEWEST_CUDA_DRIVER = (7, 5), 580
# Ollama's figure and ours may differ so far without a word.
AGREEMENT = 0.05
TIMEOUT_S = 90
_PROJECTED = re.compile(r"projected to use (\d+) MiB")


@dataclass
class TryOn:
    """A size that is tried on. `projected_mib` is set by `ask`, None while it is not known.

    + head: the file that llama-server is given
    + arguments: of llama-server
    + devices: CUDA_VISIBLE_DEVICES, None for all
    + offer_mib: what the cards of the choice may hold of it
    """

    choice: Choice
    head: HeadFile
    arguments: tuple[str, ...]
    devices: str | None
    variants: tuple[str, ...]
    offer_mib: int
    projected_mib: int | None = None

    @property
    def excess_mib(self) -> int:
        """By how much it does not fit; 0 when it does, or nothing is known."""
        return max((self.projected_mib or 0) - self.offer_mib, 0)


def prepare(sizing: Sizing, policy: Policy, probe: Probe) -> TryOn | None:
    """What is to be tried on; None where there is nothing to ask: no GPU in it, an unknown head,
    layers that stay in host memory anyhow, or cards whose library is not among CUDA's."""
    choice = sizing.chosen
    cards = [gpu for gpu in sizing.hardware.gpus if _is_used(gpu, choice)]
    head = head_file(choice.model)
    if choice.placement != "gpu" or not cards or head is None or probe.rocm:
        return None
    kept_mib = FIT_MARGIN_MIB + policy.reserve_mib
    return TryOn(
        choice=choice,
        head=head,
        arguments=tuple(_arguments(choice, cards, policy)),
        devices=choice.mig_uuid or ",".join(_uuids(choice, probe)),
        variants=_variants(cards, probe.driver.loaded),
        offer_mib=sum(max(card.vram_mib - card.context_mib - kept_mib, 0) for card in cards),
    )


@operation()
def try_on(trial: TryOn, library: str) -> Commands:
    """Ask the host's llama-server what the choice would take.

    `trial.projected_mib` holds the answer afterwards. No answer is a warning: the formula stands.

    + trial: as made by `prepare`
    + library: lib/ollama of the engine that is to serve it
    """
    yield ask("sizing", f"tries {trial.choice.tag} on, without its weights", trial, library)


@host_task
def ask(host: Host, stage: str, title: str, trial: TryOn, library: str) -> None:
    """Run tryon.sh and keep its figure."""
    say(host, stage, title)
    names = {
        "LIB": library,
        "VARIANTS": " ".join(trial.variants),
        "SIZE": str(trial.head.size_bytes),
        "WORK": f"{paths.STATE_DIR}/try-on",
        "ARGS": " ".join(trial.arguments),
    }
    if trial.devices:
        names["CUDA_VISIBLE_DEVICES"] = trial.devices
    exported = "export CUDA_VISIBLE_DEVICES\n" if trial.devices else ""
    script = assign(names) + exported + _script()
    head = base64.b64encode(trial.head.head).decode()
    result = run(host, script, stdin=head, timeout_s=TIMEOUT_S)
    found = _PROJECTED.search(result.stdout)
    if not result.ok or not found:
        warn(
            host, f"trying {trial.choice.tag} on gave no figure ({result.reason}); the plan stands"
        )
        return
    trial.projected_mib = int(found[1])
    planned = sum(trial.choice.needed_mib)
    verdict = f"{trial.excess_mib} MiB too much" if trial.excess_mib else "fits"
    say(
        host,
        stage,
        f"{trial.choice.tag} with context {trial.choice.context}: llama.cpp projects "
        f"{trial.projected_mib} MiB, planned were {planned}, the cards offer {trial.offer_mib}: "
        f"{verdict}",
    )


def disagreements(
    probe: Probe, digest: str, choice: Choice, tried: Mapping[str, Any] | None
) -> Iterator[str]:
    """A warning where the loaded model takes another amount of GPU memory than was planned."""
    if choice.placement != "gpu":
        return
    planned_mib, projected_mib = sum(choice.needed_mib), (tried or {}).get("projected_mib")
    # Of several cards the plan holds what each takes at most, by either order: no sum to compare.
    is_exact = len(choice.gpus) == 1 or not projected_mib
    figures = [figure for figure in (planned_mib if is_exact else 0, projected_mib) if figure]
    for row in probe.loaded:
        loaded_mib = round(row.size_vram_bytes / MIB)
        agree = all(abs(loaded_mib - figure) <= AGREEMENT * figure for figure in figures)
        if row.digest == digest.removeprefix("sha256:") and not agree:
            projected = f", llama.cpp projected {projected_mib}" if projected_mib else ""
            yield (
                f"{choice.tag} takes {loaded_mib} MiB of GPU memory, planned were {planned_mib}"
                f"{projected}: over {AGREEMENT:.0%} apart"
            )


def _is_used(gpu: Gpu, choice: Choice) -> bool:
    return gpu.index in choice.gpus and gpu.mig_uuid == choice.mig_uuid


def _uuids(choice: Choice, probe: Probe) -> list[str]:
    return [row.uuid for row in probe.driver.gpus if row.index in choice.gpus]


def _variants(cards: list[Gpu], driver: str | None) -> tuple[str, ...]:
    """The folders that Ollama would look for CUDA's libraries in, by cards and driver."""
    major = int((driver or "0").partition(".")[0])
    oldest = min(card.compute_capability or NEWEST_CUDA_FROM for card in cards)
    if oldest >= NEWEST_CUDA_FROM and major >= NEWEST_CUDA_DRIVER:
        return ("cuda_v13", "cuda_v12")
    return ("cuda_v12",)


def _arguments(choice: Choice, cards: list[Gpu], policy: Policy) -> Generator[str, None, None]:
    """As Ollama starts it (llm/llama_server.go), with the batch that the plan counts with."""
    tokens = choice.context * choice.parallel
    flash = policy.flash_attention and all(card.has_flash_attention for card in cards)
    rough = memory.predicted(choice.model, choice.context, choice.parallel)
    available = sum(card.vram_mib for card in cards) * MIB
    batch = str(memory.batch(rough, available, tokens) if flash else 512)
    yield from ("--host", "127.0.0.1", "--port", "0", "--no-webui", "--offline")
    yield from ("-c", str(tokens), "-np", str(choice.parallel), "-b", batch, "-ub", batch)
    yield from ("--log-verbosity", "4", "--no-log-prefix", "--no-log-timestamps")
    yield from ("--cache-type-k", choice.kv_type, "--cache-type-v", choice.kv_type)
    yield from ("--flash-attn", "auto" if flash else "off")


@cache
def _script() -> str:
    text = (resources.files("r1fleet.engine") / "tryon.sh").read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
