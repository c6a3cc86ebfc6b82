"""A probe's output without what tells whose host it is, so that it can be given away. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator

OURS = ("root", "ollama", "-")  # accounts that every host has
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_IPV4 = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"
_IPV6 = r"(?<![0-9A-Za-z:.])(?:[0-9a-f]{1,4}:){2,7}[0-9a-f]{1,4}(?![0-9A-Za-z:.])"
# Whole lines of these hold names, addresses or certificates and nothing that a plan rests on.
_DROPPED = ("knows ", "root ", "work ", "record ")
# And of an Ollama that is there already, which people have named and set up, only these stay.
_HOLDER_KEPT = ("found ", "fragment ", "exec ", "name ", "near ", "kib ")


class _Numbered:
    """The same stand-in for the same text, a new one for each other."""

    def __init__(self, form: Callable[[int], str]) -> None:
        self.form, self.known = form, dict[str, str]()

    def of(self, text: str) -> str:
        return self.known.setdefault(text, self.form(len(self.known) + 1))


def anonymous(text: str, names: Iterable[str], models_dir: str) -> str:
    """The output of probe.sh with stand-ins for users, models, addresses and serial numbers.

    + names: what the host is called, as in the inventory and its address
    + models_dir: its model directory, which may have a name in it
    """
    users = _Numbered(lambda number: f"user{number}")
    models = _Numbered(lambda number: f"model{number}")
    lines = list(_lines(text, users, models))
    whole = "\n".join(lines) + "\n"
    whole = whole.replace(models_dir, "/var/lib/ollama/models")
    for name, other in sorted(models.known.items(), key=lambda pair: -len(pair[0])):
        whole = whole.replace(name, other)
    for user in re.findall(r"of the user ([^\"\s]+)", whole):  # of state.json's "adopted"
        whole = re.sub(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])", users.of(user), whole)
    for name in sorted(filter(None, names), key=len, reverse=True):
        whole = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", "host", whole)
    return _numbers(whole)


def _lines(text: str, users: _Numbered, models: _Numbered) -> Iterator[str]:
    section = ""
    for line in text.splitlines():
        if line.startswith("@@"):
            section = line
        elif section == "@@lease" or line.startswith(_DROPPED) or _is_private(line, section):
            continue
        yield _line(line, section, users, models)


def _is_private(line: str, section: str) -> bool:
    return section == "@@holders" and not line.startswith(_HOLDER_KEPT)


def _line(line: str, section: str, users: _Numbered, models: _Numbered) -> str:
    words = line.split(" ")
    if words[0] == "session" and len(words) == 3:
        return f"session {users.of(words[1])} {words[2]}"
    if words[0] == "holder" and len(words) >= 6:
        pid, age_s, user, unit = words[1:5]
        user = user if user in OURS else users.of(user)
        unit = unit if unit in ("-", "ollama.service") else "other.service"
        return f"holder {pid} {age_s} {user} {unit} {_program(' '.join(words[5:]))}"
    if section == "@@compute" and line.count(", ") == 2:
        pid, program, used = line.split(", ")
        return f"{pid}, {_program(program)}, {used}"
    if section == "@@models" and words[0] != "blob" and "/manifests/" in line:
        head, _, path = line.partition("/manifests/")
        return f"{head}/manifests/{_model_path(path, models)}"
    line = re.sub(r"name=[^,\s]+", "name=program", line) if words[0] == "log" else line
    line = re.sub(r"/home/[^/\s\"]+", "/home/user", line)
    return re.sub(r"(https?://)[^/\"\s]+", r"\1example.org", line)


def _program(path: str) -> str:
    """A program's name; the folder only where it is the engine's."""
    return path if path.startswith("/opt/ollama/") else path.rpartition("/")[2]


def _model_path(path: str, models: _Numbered) -> str:
    """host/namespace/model/tag of a manifest: R1's stays, another's is nobody's business."""
    if path.startswith("registry.ollama.ai/library/deepseek-r1/"):
        return path
    *_, model, tag = ("", "", *path.split("/"))
    return f"registry.ollama.ai/library/{models.of(model)}/{tag}"


def _numbers(text: str) -> str:
    uuids = _Numbered(lambda number: f"00000000-0000-4000-8000-{number:012x}")
    calls = _Numbered(lambda number: f"{number:032x}")
    fours = _Numbered(lambda number: f"192.0.2.{number % 256}")  # RFC 5737
    sixes = _Numbered(lambda number: f"2001:db8::{number:x}")  # RFC 3849
    text = re.sub(_UUID, lambda found: uuids.of(found[0]), text)
    text = re.sub(r"(?<=InvocationID=)[0-9a-f]{32}", lambda found: calls.of(found[0]), text)
    own = ("127.0.0.1", "0.0.0.0")
    text = re.sub(_IPV4, lambda found: found[0] if found[0] in own else fours.of(found[0]), text)
    return re.sub(_IPV6, lambda found: sixes.of(found[0]), text)
