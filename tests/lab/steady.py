"""Clients that keep an engine at work: one long answer after the other, until they are let go."""

import json
import re
from typing import Any

from tests.lab.conftest import Lab, seen

# A text that cannot end before the context is full: some 30,000 tokens.
LONG: dict[str, Any] = {
    "think": False,
    "format": {"type": "string"},
    "options": {"temperature": 0},
}
TOKENS = 4000  # of one answer: some seconds
MOST_ANSWERS = 200
HERE = "/run/r1test-steady"

# Two, so that one waits in the engine when the other has its answer: no moment is idle. They write
# each answer's line (empty when there is none), then its status.
_LOOP = f"""
rm -rf {HERE} && mkdir {HERE} && cd {HERE} && touch go || exit 1
cat >ask <<'END'
{{ask}}
END
nohup sh -c 'for me in 1 2; do
  for i in $(seq {MOST_ANSWERS}); do
    [ -e go ] || break
    curl -s -m 600 -w "\\n%{{http_code}}\\n" -d @ask 127.0.0.1:11434/api/chat
  done >answers.$me &
done; wait; touch over' >/dev/null 2>&1 </dev/null &
"""


def busy(lab: Lab, host: str) -> int:
    """How many slots of a host's engine are at work."""
    script = (
        "for p in $(pgrep -x llama-server); do"
        " tr '\\0' '\\n' </proc/$p/cmdline | sed -n '/^--port$/{n;p;q;}'; done | sort -u |"
        " while read -r port; do curl -s --noproxy '*' -m 5 127.0.0.1:$port/slots; done"
    )
    return len(re.findall(r'"is_processing": *true', lab.on(host, script, ok=False)))


class Steady:
    """The clients, on the host itself; the engine is at work when this is entered."""

    def __init__(self, lab: Lab, host: str, model: str, **options: Any) -> None:
        self.lab, self.host = lab, host
        self.ask = {
            "model": model,
            "messages": [{"role": "user", "content": "hello"}],
            "stream": False,
            **LONG,
            "options": {**LONG["options"], "num_predict": TOKENS, **options},
        }
        self.answers: list[tuple[str, str]] = []  # status and text of each, once all are here

    def __enter__(self) -> "Steady":
        self.lab.on(self.host, _LOOP.replace("{ask}", json.dumps(self.ask)))
        assert seen(lambda: busy(self.lab, self.host), limit_s=120), "the engine is not at work"
        return self

    def let_go(self) -> None:
        """They ask no more; the answers that they wait for are still to come."""
        self.lab.on(self.host, f"rm -f {HERE}/go")

    def __exit__(self, *_: object) -> None:
        self.let_go()
        over = seen(lambda: self.lab.on(self.host, f"ls {HERE}/over", ok=False), limit_s=300)
        assert over, "the last answers do not come"
        lines = self.lab.on(self.host, f"cat {HERE}/answers.*").splitlines()
        self.answers = list(zip(lines[1::2], lines[::2], strict=True))
