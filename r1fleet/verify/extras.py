"""The proof of the models beside R1: each answers, from VRAM, and R1 stays loaded."""

import base64
import json
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet.hostfacts import LoadedModel
from r1fleet.remote import HostFailure, host_task, run, say
from r1fleet.shell import assign
from r1fleet.verify.judge import LOG, SPILLED, Fault, Reply, SmokeWanted, keep_alive_json

Commands = Generator[FunctionCommand, None, None]
Request = tuple[str, dict[str, object]]  # path and body

HOLD_S = 60
SPARE_S = 60  # of the remote command, over the sum of its requests' limits
EVICTED = "raise ollama_max_loaded_models, lower context_max or leave one out; " + LOG

# One line of base64 for each request and one for /api/ps: "HTTP-CODE", then the body.
_SCRIPT = """
ask() {
  path=$1
  shift
  { curl -sS --noproxy '*' -w '\n%{http_code}' -H 'Content-Type: application/json' "$@" \
      "$R1_URL$path" 2>&1; } | base64 -w0
  echo
}
printf '%s\n' "$R1_ASKS" | while read -r path body; do ask "$path" -m "$R1_ASK_S" -d "$body"; done
ask /api/ps -m 10
"""


@dataclass(frozen=True)
class ExtraWanted:
    """A model beside R1, with its manifest `digest` ("sha256:...").

    + embeds: it is asked for an embedding, else for text
    + placement: that of R1; "gpu" demands the whole of it in VRAM
    """

    model: str
    digest: str
    embeds: bool
    placement: Literal["gpu", "offload", "cpu"]

    @property
    def path(self) -> str:
        return "/api/embed" if self.embeds else "/api/generate"


@operation()
def extras(proof: SmokeWanted, wanted: tuple[ExtraWanted, ...]) -> Commands:
    """Ask each model beside R1, then look whether all of them are loaded together.

    + proof: what R1 itself was asked
    + wanted: the models beside it; without any nothing is asked
    """
    if wanted:
        names = ", ".join(extra.model for extra in wanted)
        yield ask("verify", f"asks {names} beside {proof.model}", proof, wanted)


@host_task
def ask(
    host: Host, stage: str, title: str, proof: SmokeWanted, wanted: tuple[ExtraWanted, ...]
) -> None:
    """Ask all in one remote command; the first fault fails the host."""
    say(host, stage, title)
    touch: Request = ("/api/generate", {"model": proof.model, "stream": False})
    requests = [touch, *(_request(extra) for extra in wanted)]
    # 0 unloads at once; all have to be seen loaded together.
    held = {"keep_alive": keep_alive_json(proof.keep_alive) or HOLD_S}
    values = {
        "R1_URL": proof.base_url,
        "R1_ASKS": "\n".join(f"{path} {json.dumps({**body, **held})}" for path, body in requests),
        "R1_ASK_S": f"{proof.load_time_max_s + proof.answer_time_max_s:g}",
    }
    limit_s = len(requests) * (proof.load_time_max_s + proof.answer_time_max_s) + SPARE_S
    result = run(host, assign(values) + _SCRIPT, timeout_s=round(limit_s))
    replies = [_reply(line) for line in result.stdout.splitlines()]
    if len(replies) != len(requests) + 1:
        raise HostFailure("the models beside R1", f"cut short ({result.reason})", "run again")
    faults = list(judge(proof, wanted, replies[1:-1], replies[-1]))
    if faults:
        raise HostFailure(*faults[0])
    say(host, stage, f"{', '.join(extra.model for extra in wanted)} answer beside {proof.model}")


def judge(
    proof: SmokeWanted, wanted: tuple[ExtraWanted, ...], answers: list[Reply], ps: Reply
) -> Iterator[tuple[str, str, str]]:
    """What is wrong, as (what, why, what to do): answers in the order of `wanted`. Pure."""
    for extra, answer in zip(wanted, answers, strict=True):
        if fault := _answer_fault(extra, answer):
            yield (extra.model, *fault)
    rows = [row for row in ps.fields.get("models") or () if isinstance(row, dict)]
    loaded = {row.digest: row for row in map(LoadedModel.from_row, rows)}
    if not {proof.digest.removeprefix("sha256:"), *proof.same_weights} & set(loaded):
        names = ", ".join(extra.model for extra in wanted)
        yield proof.model, f"it was unloaded to make room for {names}", EVICTED
    for extra in wanted:
        if fault := _row_fault(extra, loaded.get(extra.digest.removeprefix("sha256:"))):
            yield (extra.model, *fault)


def _request(extra: ExtraWanted) -> Request:
    if extra.embeds:
        return extra.path, {"model": extra.model, "input": "one line of text"}
    body = {"model": extra.model, "prompt": "Say one word.", "stream": False}
    return extra.path, {**body, "options": {"num_predict": 4}}


def _answer_fault(extra: ExtraWanted, answer: Reply) -> Fault | None:
    if not answer.ok:
        return Fault(f"{extra.path} failed: {answer.error}", LOG)
    if not extra.embeds:
        told = answer.fields.get("eval_count")
        return None if told else Fault(f"{extra.path} gave no text", LOG)
    vectors = answer.fields.get("embeddings")
    vector = vectors[0] if isinstance(vectors, list) and vectors else []
    sound = isinstance(vector, list) and any(
        isinstance(number, float | int) and math.isfinite(number) and number for number in vector
    )
    return None if sound else Fault(f"{extra.path} gave no embedding", "check the model's digest")


def _row_fault(extra: ExtraWanted, row: LoadedModel | None) -> Fault | None:
    if row is None:
        return Fault("it is not loaded after it answered", EVICTED)
    if extra.placement == "gpu" and row.size_vram_bytes < row.size_bytes:
        return Fault(f"only {row.residency:.0%} of it is in VRAM", SPILLED)
    return None


def _reply(line: str) -> Reply:
    text = base64.b64decode(line).decode(errors="replace")
    body, _, code = text.rpartition("\n")
    return Reply(code, 0.0, body)
