"""What the probe finds of an Ollama that is not r1fleet's: adopt/look.sh, read."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Existing:
    """One way in which something is there already.

    + found: "port" (it holds the engine's), "unit" (ollama.service) or "snap"
    + facts: what look.sh says of it, by its words
    + env: Ollama's own variables, as it has them
    + keys: (file, directive or variable) of its unit and drop-ins; a directive ends in "="
    + models: of its model directory, by the path of their manifests
    """

    found: str
    facts: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    keys: tuple[tuple[str, str], ...] = ()
    models: tuple[str, ...] = ()

    def __getitem__(self, word: str) -> str:
        return self.facts.get(word, "")

    def number(self, word: str) -> int:
        """A fact that is a number; 0 where it is none."""
        text = self[word]
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def unit(self) -> str:
        """The systemd unit or scope of its process."""
        return self["cgroup"].rpartition("/")[2]


def read(lines: Iterable[str]) -> tuple[Existing, ...]:
    """The section "holders" of the probe."""
    found: list[Existing] = []
    keys: list[tuple[str, str]] = []
    models: list[str] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "found":
            keys, models = [], []
            found.append(Existing(rest))
        elif not found:
            continue
        elif word == "env":
            name, _, value = rest.partition("=")
            found[-1].env[name] = value
        elif word == "key":
            path, _, name = rest.rpartition(" ")
            keys.append((path, name))
        elif word == "model":
            models.append(rest)
        else:
            found[-1].facts.setdefault(word, rest)
        if word in ("key", "model"):
            last = found[-1]
            found[-1] = Existing(last.found, last.facts, last.env, tuple(keys), tuple(models))
    return tuple(found)
