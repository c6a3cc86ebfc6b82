"""Reading the driver's part of the probe, which driver/look.sh prints."""

import re
from collections.abc import Iterator

from r1fleet.hostfacts import (
    ComputeProcess,
    DesktopSession,
    Driver,
    GpuHolder,
    MigInstance,
    SmiGpu,
    System,
    json_object,
)

Sections = dict[str, list[str]]

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~^_-]*")

GPU_FIELDS = (
    *("index", "name", "uuid", "pci.bus_id", "driver_version", "memory.total", "memory.used"),
    "compute_cap",
)
HEALTH_FIELDS = (
    *("persistence_mode", "ecc.mode.current", "ecc.mode.pending"),
    *("ecc.errors.uncorrected.volatile.total", "remapped_rows.pending", "remapped_rows.failure"),
    *("retired_pages.pending", "reset_status.reset_required", "fabric.state", "fabric.status"),
    *("mig.mode.current", "pcie.link.width.current", "power.limit", "temperature.gpu"),
)


def number(text: str) -> int | None:
    """A number, or None for "[N/A]", "[Unknown Error]" and the like."""
    try:
        return int(text.strip())
    except ValueError:
        return None


def driver(sections: Sections) -> Driver:
    """The driver as sections module, gpus and compute tell it."""
    facts = _facts(sections["module"])
    rows, code, said = _smi(sections["gpus"])
    processes, _, _ = _smi(sections["compute"])
    others = facts.get("other", [])
    licence = _first(facts, "license")
    return Driver(
        loaded=_first(facts, "loaded"),
        open_module="Open Kernel Module" in (_first(facts, "nvrm") or ""),
        uvm_loaded="nvidia_uvm" in others,
        on_disk=_first(facts, "disk"),
        library=_library(facts),
        nouveau="nouveau" in others or "nova_core" in others,
        blacklisted_at_boot="blacklist" in facts,
        smi_rc=code,
        gpus=tuple(gpu for row in rows if (gpu := _gpu(row))),
        processes=tuple(
            ComputeProcess(pid, row[1], number(row[2]))
            for row in processes
            if len(row) == 3 and (pid := number(row[0])) is not None
        ),
        disk_open="GPL" in licence if licence else None,
        smi_message=said,
        mig=tuple(_instances(facts.get("listed", []))),
        refcounts={
            name: number(count) or 0
            for name, _, count in (line.partition(" ") for line in facts.get("refs", []))
        },
        holders=tuple(holder for line in facts.get("holder", []) if (holder := _holder(line))),
        kernel_log=tuple(facts.get("log", [])[-8:]),
    )


def system(sections: Sections) -> System:
    """What of a host bears on its driver, as sections module and packages tell it."""
    facts = _facts(sections["module"])
    rows = _package_rows(sections["packages"])
    locked = {line.split()[0] for line in facts.get("locked", []) if not line.startswith("#")}
    pairs = {key: [line.split() for line in facts.get(key, [])] for key in ("free", "kernel")}
    return System(
        marks=frozenset(facts.get("mark", [])),
        headers=_first(facts, "headers") != "no",
        other_kernels={row[0]: row[1] == "yes" for row in pairs["kernel"] if len(row) == 2},
        free_mib={
            row[0]: size // 1024
            for row in pairs["free"]
            if len(row) == 2 and (size := number(row[1])) is not None
        },
        sessions=tuple(
            DesktopSession(user, kind)
            for user, _, kind in (line.partition(" ") for line in facts.get("session", []))
        ),
        workloads=tuple(facts.get("work", [])),
        # dpkg: the first letter is what is wanted (h: hold), the second what is.
        held=frozenset({name for name, _, state in rows if state[:1] == "h"} | locked),
        broken=frozenset(name for name, _, state in rows if state[1:2] in tuple("HUFWt")),
        record=json_object(_first(facts, "record") or ""),
    )


def packages(lines: list[str]) -> dict[str, str]:
    """Installed packages with their versions."""
    return {name: version for name, version, state in _package_rows(lines) if state[1:2] == "i"}


def _package_rows(lines: list[str]) -> list[tuple[str, str, str]]:
    found = (line.split() for line in lines)
    return [
        (row[0], row[1], row[2])
        for row in found
        # They become words of commands.
        if len(row) == 3 and _PACKAGE.fullmatch(row[0]) and _VERSION.fullmatch(row[1])
    ]


def _facts(lines: list[str]) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        if value and value != "-":
            facts.setdefault(key, []).append(value)
    return facts


def _first(facts: dict[str, list[str]], key: str) -> str | None:
    return next(iter(facts.get(key, [])), None)


def _library(facts: dict[str, list[str]]) -> str | None:
    """The library's version; of several (an upgrade left one behind) the newest."""
    found = facts.get("library", [])
    return max(found, key=version_key) if found else None


def version_key(version: str) -> tuple[int, ...]:
    """A driver version for comparing; what is no number counts as 0."""
    return tuple(number(part) or 0 for part in version.split("."))


def _smi(lines: list[str]) -> tuple[list[list[str]], int, str]:
    """Rows of a CSV query, nvidia-smi's exit code, and the first line that is no row."""
    rows, code, said = [], 127, ""
    for line in lines:
        if line.startswith("rc="):
            code = number(line[3:]) or 0
        elif "," in line:
            rows.append([cell.strip() for cell in line.split(",")])
        elif line.strip():
            said = said or line.strip()
    return rows, code, said


def _gpu(row: list[str]) -> SmiGpu | None:
    if len(row) < len(GPU_FIELDS) or (index := number(row[0])) is None:
        return None
    major, _, minor = row[7].partition(".")
    capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return SmiGpu(
        index=index,
        name=row[1],
        uuid=row[2],
        bus_id=row[3],
        driver_version=row[4],
        memory_total_mib=number(row[5]),
        memory_used_mib=number(row[6]),
        compute_capability=capability,
        health=dict(zip(HEALTH_FIELDS, row[len(GPU_FIELDS) :], strict=False)),
    )


def _instances(lines: list[str]) -> Iterator[MigInstance]:
    """The MIG lines of `nvidia-smi -L`, each below the line of its card."""
    index = 0
    for line in lines:
        if match := re.match(r"GPU (\d+):", line):
            index = int(match[1])
        elif match := re.match(r"\s*MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)", line):
            yield MigInstance(index, match[1], match[2])


def _holder(line: str) -> GpuHolder | None:
    words = line.split(None, 4)
    if len(words) != 5 or (pid := number(words[0])) is None:
        return None
    return GpuHolder(pid, words[4], words[2], number(words[1]) or 0, words[3])
