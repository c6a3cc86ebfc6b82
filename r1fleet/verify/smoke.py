"""Operations of the verify stage: the smoke prompt, and the record of what was verified."""

import base64
import json
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import outcome, paths
from r1fleet.remote import HostFailure, host_task, run, say, step, warn
from r1fleet.shell import assign, write_file
from r1fleet.verify.judge import SmokeWanted, judge, keep_alive_json, parse

Commands = Generator[FunctionCommand, None, None]

HOLD_S = 60
SPARE_S = 60  # of the remote command, over the sum of its requests' limits


@operation()
def smoke(want: SmokeWanted) -> Commands:
    """Load the model, ask it the smoke prompt both ways, and hold all against the limits.

    The figures are in `outcome.of(host).smoke` afterwards, also when one fails the host.

    + want: model, prompt and limits
    """
    yield ask("verify", f"loads {want.model} and asks it the smoke prompt", want)


@operation()
def write_state(state: Mapping[str, Any], found: Mapping[str, Any]) -> Commands:
    """Write state.json, by one rename, if it would say something new.

    + state: as made by fingerprint.state
    + found: what the probe read of it
    """
    if state != found:
        content = json.dumps(state, indent=1, sort_keys=True) + "\n"
        yield step(
            "verify",
            "writes what was decided and proven",
            write_file(paths.STATE_FILE, content, mode="644"),
            f"check the free space and rights of {paths.STATE_DIR}",
            stdin=content,
        )


@host_task
def ask(host: Host, stage: str, title: str, want: SmokeWanted) -> None:
    """Run smoke.sh and judge its answers; every fault is told, the first one fails the host."""
    say(host, stage, title)
    limit_s = 3 * want.load_time_max_s + 2 * want.answer_time_max_s + SPARE_S
    result = run(host, assign(_variables(want)) + _script(), timeout_s=round(limit_s))
    try:
        found = parse(base64.b64decode(result.stdout).decode(errors="replace"))
    except ValueError as error:
        raise HostFailure("the smoke prompt", f"{error} ({result.reason})", "run again") from error
    verdict = judge(want, found, datetime.now(UTC).isoformat(timespec="seconds"))
    outcome.of(host.name).smoke = verdict.smoke
    for fault in verdict.faults[1:]:
        warn(host, str(fault))
    if verdict.faults:
        raise HostFailure(want.model, *verdict.faults[0])
    if shown := verdict.smoke:
        say(
            host,
            stage,
            f"{want.model} answers {shown.answer!r}, {shown.tokens_per_s:g} tokens/s,"
            f" {shown.residency:.0%} in VRAM, context {shown.context}",
        )


def _variables(want: SmokeWanted) -> dict[str, str]:
    # 0 unloads at once; the proof has to see the model loaded.
    keep_alive = keep_alive_json(want.keep_alive) or HOLD_S
    system = [{"role": "system", "content": want.system}] if want.system else []
    messages = [*system, {"role": "user", "content": want.prompt}]
    options = {"options": dict(want.options)} if want.options else {}
    load = {"model": want.model, "keep_alive": keep_alive, "stream": False}
    # Ollama refuses "think" for a model that cannot.
    chat = {**load, "messages": messages} | ({"think": True} if want.thinks else {}) | options
    return {
        "R1_URL": want.base_url,
        "R1_LOAD": json.dumps(load),
        "R1_CHAT": json.dumps(chat),
        "R1_STREAM": json.dumps({"model": want.model, "messages": messages, "stream": True}),
        "R1_DIGESTS": "|".join([want.digest.removeprefix("sha256:"), *want.same_weights]),
        "R1_SMI": "nvidia-smi" if want.nvidia and want.placement != "cpu" else "",
        "R1_LOAD_S": f"{want.load_time_max_s:g}",
        "R1_ASK_S": f"{want.answer_time_max_s:g}",
    }


@cache
def _script() -> str:
    text = (resources.files("r1fleet.verify") / "smoke.sh").read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
