"""The state of one host as a list of checks, each with what was seen. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from r1fleet.model.manifest import human
from r1fleet.watch import said
from r1fleet.words import age, short

# The kinds of drift (drift.py) that each check looks for, in the order in which a host is built up.
AREAS: Mapping[str, tuple[str, ...]] = {
    "driver": ("driver", "hold"),
    "engine": ("engine", "restart"),
    "unit": ("unit", "drop-in"),
    "files": ("unit file", "hardening", "environment file", "file"),
    "model": ("model", "digest", "blob"),
    "memory": ("memory", "residency", "context"),
    "alias": ("alias",),
    "gateway": ("gateway",),
    "state": ("state",),
    "proof": ("proof",),
}
RUN = "a run of deploy.py mends it"
FIXES = {
    "drop-in": "a person has put it there: systemctl cat ollama",
    "absent": "",
    "hold": "a run of deploy.py takes care of it",
    "digest": "a run takes the new one, or `r1fleet lock` accepts it",
}


@dataclass(frozen=True)
class Check:
    """One line: `what` was seen, and where it is not ok, what to do about it."""

    name: str
    level: Literal["ok", "warning", "bad"]
    what: str
    fix: str = ""


def checks(row: Mapping[str, Any]) -> tuple[Check, ...]:
    """All checks of a host, from its row of `r1fleet status`."""
    if row["verdict"] in ("unreachable", "failed") and row["engine"] is None:
        fix = f"ssh {row['host']} true must work without a question"
        return (Check("reached", "bad", row["reason"], fix),)
    found = [Check("reached", "ok", "answers by SSH"), *_held(row), *_refused(row)]
    known = {kind for kinds in AREAS.values() for kind in kinds}
    for name, kinds in AREAS.items():
        found += _area(name, kinds, row)
    rest = [item for item in row["drift"] if item["kind"] not in known]
    found += [Check("other", "bad", one["what"], FIXES.get(one["kind"], RUN)) for one in rest]
    found += [Check("warning", "warning", text) for text in row["warnings"]]
    return (*found, *_watch(row), _disk(row))


def is_sound(found: Iterable[Check]) -> bool:
    """Whether none of them is bad; warnings may stand for a long time."""
    return all(check.level != "bad" for check in found)


def _area(name: str, kinds: tuple[str, ...], row: Mapping[str, Any]) -> list[Check]:
    bad = [item for item in row["drift"] if item["kind"] in kinds]
    if name == "driver" and (row["driver"] or {}).get("fault") and not bad:
        return [Check(name, "bad", row["driver"]["fault"], RUN)]
    if bad:
        return [Check(name, "bad", one["what"], FIXES.get(one["kind"], RUN)) for one in bad]
    seen = SEEN[name](row) if name in SEEN else ""
    return [Check(name, "ok", seen)] if seen else []


def _held(row: Mapping[str, Any]) -> Iterator[Check]:
    held = row["lease"]
    if held and not held["is_over"] and not held["is_left"]:
        what = f"held by {held['who']} until {held['until']}"
        yield Check("lease", "bad", what, "wait for that run, or --data steal=yes")


def _refused(row: Mapping[str, Any]) -> Iterator[Check]:
    told = {item["what"] for item in row["drift"]}
    if row["reason"] and row["reason"] not in told:
        yield Check("plan", "bad", row["reason"], "")


def _watch(row: Mapping[str, Any]) -> Iterator[Check]:
    """By the host's own watch: the checks above have looked for themselves, now."""
    if row["watch"]:
        lines = list(said.lines(row["watch"]))
        fix = "journalctl -u r1fleet-watch on the host has each change"
        yield from (Check("watch", "warning", text, fix) for text in lines)
        if not lines:
            yield Check("watch", "ok", f"nothing to tell for {age(row['watch']['since_s'])}")


def _disk(row: Mapping[str, Any]) -> Check:
    free = row["disk_free_bytes"]
    return Check("disk", "ok", f"{human(free)} free" if free is not None else "not known")


def _driver(row: Mapping[str, Any]) -> str:
    found = row["driver"]
    if not found:
        return "no NVIDIA GPU"
    kind = "open" if found["open"] else "proprietary"
    return f"{found['loaded'] or found['version']}, {kind} module"


def _memory(row: Mapping[str, Any]) -> str:
    if row["residency"] is None:
        return ""
    where = "on the CPU" if row["placement"] == "cpu" else f"{row['residency']:.0%} on the GPUs"
    return f"{where}, context {row['context']}"


def _proof(row: Mapping[str, Any]) -> str:
    if row["verified_age_s"] is None:
        return ""
    speed = f", {row['tokens_per_s']:.1f} tokens/s" if row["tokens_per_s"] else ""
    return f"{age(row['verified_age_s'])} ago{speed}"


SEEN = {
    "driver": _driver,
    "engine": lambda row: f"Ollama {row['engine']['answers']}" if row["engine"]["answers"] else "",
    "unit": lambda row: "runs, and starts with the host" if row["engine"]["answers"] else "",
    "files": lambda row: "as r1fleet writes them" if row["engine"]["live"] else "",
    "model": lambda row: f"{row['tag']} {short(row['digest'])}" if row["digest"] else "",
    "memory": _memory,
    "alias": lambda row: ", ".join(row["alias"] or ()),
    "proof": _proof,
}
