"""Playing the team's prompts on a host, on one digest of the model at a time."""

import base64
import json
from collections.abc import Generator
from dataclasses import dataclass, field

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import outcome
from r1fleet.golden import Answer, Golden, compared, judge, worse
from r1fleet.hostfacts import json_object
from r1fleet.remote import HostFailure, host_task, run, say
from r1fleet.shell import assign
from r1fleet.verify.judge import SmokeWanted, keep_alive_json

Commands = Generator[FunctionCommand, None, None]

ANSWER_MAX_S = 600
SPARE_S = 60
SEED = 1  # the same dice for both sides

# One line of base64 for each request: the body, then "HTTP-CODE SECONDS". Bodies come by standard
# input: all of them together may be longer than a command line.
_SCRIPT = """
while IFS= read -r body; do
  { printf '%s' "$body" | curl -sS --noproxy '*' -m "$R1_ASK_S" --data-binary @- \
      -H 'Content-Type: application/json' -w '\\n%{http_code} %{time_total}' \
      "$R1_URL/api/chat" 2>&1; } | base64 -w0
  echo
done
"""


@dataclass
class Game:
    """Both sides of the prompts on one host."""

    golden: Golden
    old: dict[str, Answer] = field(default_factory=dict)
    new: dict[str, Answer] = field(default_factory=dict)


def is_canary(host: str) -> bool:
    """Whether the prompts are played on this host: on those that go first, or where none does."""
    plan = outcome.rollout.plan
    first = plan.waves[0].hosts if plan and len(plan.waves) > 1 else (host,)
    return host in first


@operation()
def old(game: Game, proof: SmokeWanted) -> Commands:
    """Play the prompts on the model that serves so far.

    + game: filled in with its answers
    + proof: engine, name and system prompt of that model
    """
    yield play("golden", f"plays {len(game.golden.prompts)} prompts on {proof.model}", game, proof)


@operation()
def new(game: Game, proof: SmokeWanted) -> Commands:
    """Play them on the new model; fails the host if one fails that passed before.

    + game: as filled in by `old`
    + proof: engine, name and system prompt of the new model
    """
    title = f"plays {len(game.golden.prompts)} prompts on {proof.model}"
    yield play("golden", title, game, proof, is_new=True)


@host_task
def play(
    host: Host, stage: str, title: str, game: Game, proof: SmokeWanted, *, is_new: bool = False
) -> None:
    """Ask all prompts in one remote command, one after the other."""
    say(host, stage, title)
    asks = [json.dumps(_body(prompt.prompt, proof)) for prompt in game.golden.prompts]
    values = {"R1_URL": proof.base_url, "R1_ASK_S": str(ANSWER_MAX_S)}
    limit_s = len(asks) * ANSWER_MAX_S + round(proof.load_time_max_s) + SPARE_S
    stdin = "".join(f"{line}\n" for line in asks)
    result = run(host, assign(values) + _SCRIPT, stdin=stdin, timeout_s=limit_s)
    lines = [line for line in result.stdout.splitlines() if line]
    if len(lines) != len(asks):
        raise HostFailure("the golden prompts", f"cut short ({result.reason})", "run again")
    side = game.new if is_new else game.old
    for prompt, line in zip(game.golden.prompts, lines, strict=True):
        text, _, tail = base64.b64decode(line).decode(errors="replace").rpartition("\n")
        code, _, seconds = tail.partition(" ")
        side[prompt.name] = judge(prompt.check, json_object(text), code, float(seconds or 0))
    passed = sum(answer.failed is None for answer in side.values())
    say(host, stage, f"{passed} of {len(asks)} pass on {proof.model}")
    if is_new:
        rows = compared(game.golden, game.old, game.new)
        outcome.of(host.name).golden = rows
        if told := worse(rows):
            fix = "see golden in the report; mend the prompt's check, or keep the former model"
            raise HostFailure(f"golden prompts on {proof.model}", told, fix)


def _body(prompt: str, proof: SmokeWanted) -> dict[str, object]:
    system = [{"role": "system", "content": proof.system}] if proof.system else []
    return {
        "model": proof.model,
        "messages": [*system, {"role": "user", "content": prompt}],
        "stream": False,
        "keep_alive": keep_alive_json(proof.keep_alive) or 60,
        "options": {"seed": SEED, **proof.options},
    } | ({"think": True} if proof.thinks else {})
