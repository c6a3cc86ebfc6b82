"""Versions of Ollama with known holes: which are refused, which are warned about, and why.

The data is catalog/holes.yaml. `python -m r1fleet.holes` prints it as docs/security-cves.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from r1fleet import catalog, settings_check
from r1fleet.settings_check import Bad

NVD = "https://nvd.nist.gov/vuln/detail"


@dataclass(frozen=True)
class Hole:
    """One or more CVEs of a kind. `fixed`: the first version without it, None where none is known;
    `affected`: the last version listed, or words."""

    cves: tuple[str, ...]
    what: str
    fixed: str | None
    affected: str | None
    besides: str

    def is_in(self, version: str) -> bool:
        """Whether a version has it, as far as is known."""
        if self.fixed:
            return number(version) < number(self.fixed)
        last = self.affected or ""
        return not re.match(r"\d", last) or number(version) <= number(last)


@dataclass(frozen=True)
class Holes:
    """All of them, and the two floors."""

    refuse_below: str
    warn_below: str
    holes: tuple[Hole, ...]

    def of(self, version: str) -> tuple[str, ...]:
        """The CVEs of a version, newest first, without those that every version has."""
        found = (hole for hole in self.holes if hole.is_in(version))
        listed = (hole for hole in found if hole.fixed or re.match(r"\d", hole.affected or ""))
        return tuple(sorted((cve for hole in listed for cve in hole.cves), key=_age, reverse=True))


@cache
def known() -> Holes:
    """What the data file says."""
    data = catalog.rows_of("holes.yaml")
    keys = ("what", "fixed", "affected", "besides")
    holes = (Hole(tuple(row["cves"]), *(row.get(key) for key in keys)) for row in data["holes"])
    return Holes(data["refuse_below"], data["warn_below"], tuple(holes))


def number(version: str) -> tuple[int, ...]:
    """A version as what it is compared by; a candidate comes before its release."""
    plain, _, candidate = version.partition("-rc")
    parts = tuple(int(part) for part in re.findall(r"\d+", plain)[:3])
    return (*parts, *(0,) * (3 - len(parts)), int(candidate) if candidate.isdigit() else 10**6)


def check(version: str) -> str:
    """A release without the worst of the holes, for a setting. Raises Bad."""
    version = settings_check.version(version)
    if number(version) < number(known().refuse_below):
        raise Bad(told(version), f"use {known().refuse_below} or later")
    return version


def is_old(version: str) -> bool:
    """Whether a version is to be warned about."""
    return number(version) < number(known().warn_below)


def told(version: str) -> str:
    """The holes of a version in a few words."""
    cves = known().of(version)
    more = f" and {len(cves) - 3} more" if len(cves) > 3 else ""
    return f"has known holes: {', '.join(cves[:3])}{more}" if cves else "is no longer maintained"


def warning(version: str) -> str | None:
    """What to say of an engine that the settings ask for; None when it is new enough."""
    if not is_old(version):
        return None
    return f"Ollama {version} {told(version)}; set engine_version to {known().warn_below} or later"


def found_warning(version: str | None, wanted: str) -> str | None:
    """What to say of an engine that is on a host already."""
    if version is None or version == wanted or not re.match(r"\d", version) or not is_old(version):
        return None
    return f"Ollama {version}, found on this host, {told(version)}; Ollama {wanted} takes its place"


def table() -> str:
    """docs/security-cves.md."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    data = known()
    yield "# Known holes of Ollama, and what r1fleet does about each"
    yield ""
    yield "Printed by `python -m r1fleet.holes` from r1fleet/catalog/holes.yaml."
    yield ""
    yield f"- An `engine_version` below {data.refuse_below} is refused before anything is touched."
    yield f"- One below {data.warn_below} is warned about in the run, the plan and the report."
    yield "- An older engine that is found on a host is named, and replaced."
    yield ""
    yield "The last column holds with the default `ollama_host`, whatever the version is."
    yield ""
    yield "| CVE | what | version | by version | besides |"
    yield "| --- | --- | --- | --- | --- |"
    for hole in data.holes:
        cves = ", ".join(f"[{cve}]({NVD}/{cve})" for cve in hole.cves)
        yield f"| {cves} | {hole.what} | {_version(hole)} | {_done(hole)} | {hole.besides} |"


def _version(hole: Hole) -> str:
    if hole.fixed:
        return f"fixed in {hole.fixed}"
    last = hole.affected or ""
    return f"listed up to {last}" if re.match(r"\d", last) else last


def _done(hole: Hole) -> str:
    """Whether versions that have it are refused or warned about."""
    data = known()
    if hole.is_in(data.warn_below):
        return "every version has it"
    return "warned about" if hole.is_in(data.refuse_below) else "refused"


def _age(cve: str) -> tuple[int, int]:
    _, year, serial = cve.split("-")
    return int(year), int(serial)


if __name__ == "__main__":
    print(table(), end="")
