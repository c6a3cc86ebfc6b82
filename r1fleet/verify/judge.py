"""Judging what a host answered to the smoke prompt, and what a probe shows. Pure.

Faults are sentences for people: what was seen, what was wanted, what to do.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from r1fleet.hostfacts import LoadedModel, Probe, json_object
from r1fleet.outcome import Smoke

LOG = "see `journalctl -u ollama`"
SPILLED = "lower context_max or ollama_num_parallel, or take a smaller tag; " + LOG
NO_GPU = "restart ollama, which looks for GPUs once per start; " + LOG
SECTIONS = ("preload", "load", "chat", "stream", "ps", "compute", "engine", "end")


class Fault(NamedTuple):
    """What is wrong, with the figures, and what to do about it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


@dataclass(frozen=True)
class SmokeWanted:
    """The smoke prompt and the limits its answer is held against.

    + model: "deepseek-r1:14b", with its manifest `digest` ("sha256:...")
    + placement: "gpu" demands the whole model in VRAM, "offload" a part of it, "cpu" nothing
    + context: tokens per request that were planned
    + keep_alive: Ollama's value, "-1", "300" (seconds) or "5m"
    + expect: text that the answer must hold, in any case
    + tokens_per_s_min: 0 asks for no speed; next_smaller: the tag to propose when it is missed
    + load_time_max_s, answer_time_max_s: seconds
    + thinks: the answer must have a thinking part
    + nvidia: nvidia-smi shows the processes on its GPUs; False asks it nothing
    + gpus: GPUs that the engine must have found at its start; None asks for no number
    + system, options: those of the alias, so that the proof holds for it too
    + same_weights: digests (bare hex) of other names of these weights: /api/ps shows the name under
      which they were loaded first
    """

    base_url: str
    model: str
    digest: str
    placement: Literal["gpu", "offload", "cpu"]
    context: int
    keep_alive: str
    prompt: str
    expect: str
    tokens_per_s_min: float = 0.0
    next_smaller: str | None = None
    load_time_max_s: float = 600.0
    answer_time_max_s: float = 600.0
    thinks: bool = True
    nvidia: bool = True
    gpus: int | None = None
    system: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    same_weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; `code` is "000" when none came, `body` then curl's message."""

    code: str
    seconds: float
    body: str

    @property
    def ok(self) -> bool:
        return self.code == "200"

    @property
    def fields(self) -> dict[str, Any]:
        """The body as an object; {} when it is none."""
        return json_object(self.body)

    @property
    def error(self) -> str:
        """What went wrong, in one line."""
        said = self.fields.get("error")
        if isinstance(said, dict):  # the OpenAI routes wrap it
            said = said.get("message")
        text = str(said or self.body.strip().rpartition("\n")[2] or "nothing more was said")
        return text[:300] if self.code == "000" else f"HTTP {self.code}, {text[:300]}"


@dataclass(frozen=True)
class Answers:
    """What smoke.sh brought back. `preload_s`: how long the last preload took, 0 without one."""

    preload_s: float

    load: Reply
    chat: Reply
    stream: Reply
    loaded: tuple[LoadedModel, ...]
    compute: tuple[str, ...]  # names of the processes on the GPUs
    # Library of each device that the engine found; () where its journal no longer says.
    engine: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """`faults` is empty when the host is as wanted; `smoke` is None when it did not answer."""

    faults: tuple[Fault, ...]
    smoke: Smoke | None


def parse(text: str) -> Answers:
    """Read the output of smoke.sh. Raises ValueError when it is cut short."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("@@"):
            lines = sections.setdefault(line[2:], [])
        else:
            lines.append(line)
    if missing := [name for name in SECTIONS if name not in sections]:
        raise ValueError(f"the answer has no section {', '.join(missing)}")
    rows = _reply(sections["ps"]).fields.get("models")
    preload = json_object("\n".join(sections["preload"]))
    return Answers(
        preload_s=float(preload.get("load_duration") or 0) / 1e9,
        load=_reply(sections["load"]),
        chat=_reply(sections["chat"]),
        stream=_reply(sections["stream"]),
        loaded=tuple(LoadedModel.from_row(row) for row in rows or () if isinstance(row, dict)),
        compute=tuple(
            cells[1].strip() for line in sections["compute"] if len(cells := line.split(",")) == 3
        ),
        engine=tuple(
            match[1] for line in sections["engine"] if (match := re.search(r"library=(\S+)", line))
        ),
    )


def judge(want: SmokeWanted, found: Answers, at: str) -> Verdict:
    """Hold the answers against what is wanted; `at` is the time of it, UTC, ISO 8601."""
    for what, reply in (("loading the model", found.load), ("the smoke prompt", found.chat)):
        if not reply.ok:
            return Verdict((Fault(f"{what} failed: {reply.error}", LOG),), None)
    chat = found.chat.fields
    message = chat.get("message") or {}
    answer, thinking = str(message.get("content", "")), str(message.get("thinking") or "")
    speed = _per_second(chat)
    load_s = float(found.load.fields.get("load_duration") or 0) / 1e9 or found.load.seconds
    load_s = max(load_s, found.preload_s)
    row = _row(found.loaded, want.digest, want.same_weights)
    faults = [  # causes before effects: the first one is the host's reason
        *_engine_faults(want, found.engine),
        *_row_faults(want, found, row),
        *_answer_faults(want, answer, thinking, "/api/chat"),
        *_stream_faults(want, found.stream),
        *_speed_faults(want, speed, load_s),
    ]
    smoke = Smoke(
        at=at,
        answer=answer.strip()[:200],
        thinking=thinking.strip()[:200],
        load_s=round(load_s, 2),
        tokens_per_s=round(speed, 1),
        residency=round(row.residency, 4) if row else 0.0,
        context=(row.context if row else None) or 0,
        digest=want.digest,
    )
    return Verdict(tuple(faults), smoke)


def check_loaded(
    probe: Probe,
    digest: str,
    placement: str,
    same_weights: Collection[str] = (),
    *,
    processes: bool = True,
) -> Fault | None:
    """What is wrong with a loaded model as the probe shows it; None when nothing, or not loaded.

    For every run, whatever is remembered of earlier ones. Take a probe from after the last change.

    + processes: also whether nvidia-smi shows its server; not where clients may have the engine
      swap models between the two looks, and the smoke prompt looks again anyway
    """
    row = _row(probe.loaded, digest, same_weights)
    if row is None:
        return None
    shown = processes and not probe.rocm
    names = None if not shown else tuple(process.name for process in probe.driver.processes)
    return next(_placement_faults(placement, row, names), None)


def needs_load(
    probe: Probe, digest: str, keep_alive: str, same_weights: Collection[str] = ()
) -> bool:
    """Whether a model that is to stay loaded for ever is not."""
    return keep_alive.startswith("-") and _row(probe.loaded, digest, same_weights) is None


def keep_alive_json(keep_alive: str) -> str | int:
    """OLLAMA_KEEP_ALIVE as a request's keep_alive: plain numbers are seconds and go as numbers
    (Ollama refuses "-1" as a text without a unit), others are durations."""
    return int(keep_alive) if keep_alive.lstrip("-").isdigit() else keep_alive


def _engine_faults(want: SmokeWanted, libraries: tuple[str, ...]) -> Iterator[Fault]:
    seen = sum(1 for library in libraries if library == "CUDA")
    if want.gpus is not None and libraries and seen != want.gpus:
        yield Fault(f"Ollama found {seen} of {want.gpus} GPUs at its start", NO_GPU)


def _row_faults(want: SmokeWanted, found: Answers, row: LoadedModel | None) -> Iterator[Fault]:
    if row is None:
        others = ", ".join(f"{other.name} {other.digest[:12]}" for other in found.loaded)
        yield Fault(
            f"{want.model} {want.digest[7:19]} is not loaded after it answered"
            f" (loaded: {others or 'nothing'})",
            LOG,
        )
        return
    yield from _placement_faults(want.placement, row, found.compute if want.nvidia else None)
    if row.context != want.context:
        yield Fault(
            f"the context is {row.context} tokens, planned are {want.context}",
            f"another client may have asked for its own num_ctx; {LOG}",
        )


def _answer_faults(want: SmokeWanted, answer: str, thinking: str, way: str) -> Iterator[Fault]:
    if want.expect.lower() not in answer.lower():
        said = f"{answer.strip()[:80]!r}" if answer.strip() else "nothing"
        yield Fault(
            f"the answer by {way} is {said}, it should hold {want.expect!r}",
            "check smoke_prompt, smoke_expect and the model's digest",
        )
    if want.thinks and not thinking.strip():
        yield Fault(
            f"no thinking part in the answer by {way}", "check the model's digest and template"
        )


def _stream_faults(want: SmokeWanted, stream: Reply) -> Iterator[Fault]:
    way = "/v1/chat/completions"
    if not stream.ok:
        yield Fault(f"{way} failed: {stream.error}", LOG)
        return
    deltas = list(_deltas(stream.body))
    answer = "".join(str(delta.get("content") or "") for delta in deltas)
    thinking = "".join(str(delta.get("reasoning") or "") for delta in deltas)
    if "data: [DONE]" not in stream.body:
        yield Fault(f"the stream of {way} broke off", LOG)
    yield from _answer_faults(want, answer, thinking, way)
    if sum(1 for delta in deltas if delta.get("content") or delta.get("reasoning")) < 2:
        yield Fault(
            f"{way} did not stream, all came in one piece", "check what stands before the engine"
        )


def _deltas(body: str) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        for choice in json_object(line.removeprefix("data:")).get("choices") or ():
            yield choice.get("delta") or {}


def _speed_faults(want: SmokeWanted, speed: float, load_s: float) -> Iterator[Fault]:
    if 0 < want.tokens_per_s_min > speed:
        smaller = f"set tag to {want.next_smaller}" if want.next_smaller else "use a faster GPU"
        yield Fault(
            f"{speed:.1f} tokens/s, tokens_per_s_min is {want.tokens_per_s_min:g}",
            f"look for other work on the GPU (`nvidia-smi`), {smaller}, or lower the limit",
        )
    if load_s > want.load_time_max_s:
        yield Fault(
            f"loading took {load_s:.0f} s, load_time_max_s is {want.load_time_max_s:g}",
            "check the disk of the model directory or raise the limit",
        )


def _placement_faults(
    placement: str, row: LoadedModel, processes: Iterable[str] | None
) -> Iterator[Fault]:
    """`processes` are those on the GPUs, None where nothing tells them."""
    if placement == "cpu":
        return
    sizes = f"size_vram {row.size_vram_bytes / 1e9:.1f} of {row.size_bytes / 1e9:.1f} GB"
    if not row.size_vram_bytes:
        yield Fault(f"answers from the CPU: nothing of the model is in VRAM ({sizes})", NO_GPU)
    elif placement == "gpu" and row.size_vram_bytes < row.size_bytes:
        share = f"{100 * row.residency:.0f} % of the model is in VRAM ({sizes})"
        yield Fault(f"answers from the CPU: {share}", SPILLED)
    elif processes is not None and not any(is_engine(name) for name in processes):
        yield Fault("nvidia-smi shows no llama-server among the processes on the GPU", NO_GPU)


def is_engine(process: str) -> bool:
    """Whether a process of nvidia-smi's list is Ollama's."""
    return process.rpartition("/")[2].startswith("llama-server") or "/lib/ollama/" in process


def _row(
    loaded: Iterable[LoadedModel], digest: str, same_weights: Collection[str] = ()
) -> LoadedModel | None:
    bare = {digest.removeprefix("sha256:"), *same_weights}
    return next((row for row in loaded if row.digest in bare), None)


def _per_second(chat: dict[str, Any]) -> float:
    duration_ns = float(chat.get("eval_duration") or 0)
    return float(chat.get("eval_count") or 0) / duration_ns * 1e9 if duration_ns else 0.0


def _reply(lines: list[str]) -> Reply:
    code, _, seconds = (lines[0] if lines else "000 0").partition(" ")
    return Reply(code, float(seconds or 0), "\n".join(lines[1:]))
