"""Clients of a fleet: on every host one that asks by the alias about once a second."""

import json
import subprocess
import threading
from dataclasses import dataclass

from tests.lab.conftest import Lab, seen

MOST_REQUESTS = 600
QUESTION = {"messages": [{"role": "user", "content": "Reply with one word"}], "stream": False}
GOES_ON = "/run/r1test-client"

TOLD: list[str] = []  # a line of each, for the end of the tests

# The answer's line (empty when there is none), then its status and how long it took.
_LOOP = f"""
touch {GOES_ON}
i=0
while [ -e {GOES_ON} ] && [ $i -lt {MOST_REQUESTS} ]; do
  i=$((i + 1))
  curl -s -m 120 -w '\\n%{{http_code}} %{{time_total}}\\n' -d @- 127.0.0.1:11434/api/chat <<'ASK'
{{ask}}
ASK
  sleep 1
done
"""


@dataclass(frozen=True)
class Answer:
    """What one request got. `word` is the answer's text, "" when there was none."""

    status: str
    took_s: float
    word: str


class Clients:
    """One client for each host of the lab, from when it is entered until it is left."""

    def __init__(self, lab: Lab, alias: str, label: str) -> None:
        self.lab, self.label = lab, label
        script = _LOOP.replace("{ask}", json.dumps({"model": alias, **QUESTION}))
        self.answers: dict[str, list[Answer]] = {host: [] for host in lab.hosts}
        self.threads = [
            threading.Thread(target=self._read, args=(host, script)) for host in lab.hosts
        ]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let each finish its last request."""
        for host in self.lab.hosts:
            self.lab.on(host, f"rm -f {GOES_ON}")
        for thread in self.threads:
            thread.join()
        TOLD.append(f"{self.label}: {self.told}")

    def wait_for(self, more: int) -> None:
        """Until each has so many more answers, for two minutes at most."""
        targets = {host: len(answers) + more for host, answers in self.answers.items()}
        late = seen(
            lambda: [host for host, many in targets.items() if len(self.answers[host]) < many],
            lambda hosts: not hosts,
            120,
        )
        assert not late, f"no {more} more answers in two minutes: {late}"

    def words(self, host: str) -> list[str]:
        """What a host answered, one after the other."""
        return [answer.word for answer in self.answers[host]]

    @property
    def failed(self) -> list[tuple[str, Answer]]:
        """Every request that got no answer, with its host."""
        return [
            (host, answer)
            for host, answers in self.answers.items()
            for answer in answers
            if answer.status != "200" or not answer.word
        ]

    @property
    def told(self) -> str:
        """A line for people."""
        waits = {
            host: max((answer.took_s for answer in answers), default=0.0)
            for host, answers in self.answers.items()
        }
        longest = max(waits, key=waits.__getitem__)
        count = sum(map(len, self.answers.values()))
        return (
            f"{count} requests on {len(waits)} hosts, {len(self.failed)} failed,"
            f" longest wait {waits[longest]:.2f} s ({longest})"
        )

    def _read(self, host: str, script: str) -> None:
        with subprocess.Popen(
            [*self.lab.ssh(host), script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            for body in process.stdout:
                status, took_s = process.stdout.readline().split()
                self.answers[host].append(Answer(status, float(took_s), _word(body)))


def _word(body: str) -> str:
    try:
        return str(json.loads(body)["message"]["content"]).strip()
    except (ValueError, KeyError, TypeError):
        return ""
