"""The probe: one remote command per host that returns all a run needs to know of it."""

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

from r1fleet import paths
from r1fleet.adopt import facts as adopt
from r1fleet.driver import look
from r1fleet.driver.look import number
from r1fleet.hostfacts import (
    Amd,
    AmdGpu,
    Gateway,
    LoadedModel,
    ModelStore,
    PciDevice,
    Probe,
    Unit,
    Watch,
    json_object,
)
from r1fleet.shell import assign


class ProbeError(ValueError):
    """The probe's output is not whole; the message says what is missing."""


def command(models_dir: str, base_url: str) -> str:
    """The remote command. Quoted for a POSIX shell; safe for any path and URL."""
    files = " ".join(paths.MANAGED_FILES)
    head = assign(
        {
            "R1_MODELS": models_dir,
            "R1_URL": base_url,
            "R1_PORT": f"{int(base_url.rpartition(':')[2]):04X}",
            "R1_FILES": files,
            "R1_GPU": ",".join(look.GPU_FIELDS),
            "R1_HEALTH": ",".join(look.HEALTH_FIELDS),
        }
    )
    return head + _script()


@cache
def _script() -> str:
    home = resources.files("r1fleet")
    parts = (home / "driver" / "look.sh", home / "adopt" / "look.sh", home / "probe.sh")
    text = "".join(part.read_text(encoding="ascii") for part in parts)
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))


def parse(text: str) -> Probe:
    """Read the output of probe.sh.

    Raises ProbeError when a section is missing, so that a cut output never looks like a bare host,
    when one comes twice, so that nobody adds to it, or when a line is none of ours.
    """
    sections = _sections(text)
    try:
        return _read(sections)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ProbeError(f"the probe's answer cannot be read: {error}") from error


def _read(sections: dict[str, list[str]]) -> Probe:
    os_release = {
        key: value.strip("\"'")
        for key, _, value in (line.partition("=") for line in sections["os"])
    }
    machine = [*sections["machine"], "", "", "", "", ""]
    units = _units(sections["units"])
    api = [json_object(line) for line in sections["api"] if line.strip()]
    return Probe(
        distro=os_release.get("ID", "unknown"),
        distro_version=os_release.get("VERSION_ID", ""),
        distro_name=os_release.get("PRETTY_NAME", "unknown"),
        kernel=machine[0],
        arch=machine[1],
        boot_id=machine[2],
        cores=number(machine[3]) or 1,
        virtualisation=machine[4] or "none",
        is_root=sections["login"] == ["0"],
        ram_mib=_memory_mib(sections["memory"], "MemTotal"),
        pci=tuple(_pci(line) for line in sections["pci"] if len(line.split()) == 7),
        driver=look.driver(sections),
        packages=look.packages(sections["packages"]),
        tools=frozenset(sections["tools"]),
        user_groups=frozenset(word for line in sections["user"] for word in line.split()),
        units=units,
        engine_current=_engine_current(sections["engine"]),
        engine_versions=frozenset(
            filter(_VERSION.fullmatch, _folders(sections["engine"], "versions"))
        ),
        served=_folders(sections["engine"], "served"),
        restart_pending="restart pending" in sections["engine"],
        mirror_restart_pending="mirror restart pending" in sections["engine"],
        sent="bundle sent" in sections["engine"],
        files={path: digest for digest, path in _pairs(sections["files"])},
        models=_models(sections["models"]),
        engine_version=next((item["version"] for item in api if "version" in item), None),
        loaded=tuple(
            LoadedModel.from_row(row)
            for item in api
            for row in item.get("models") or ()
            if "digest" in row
        ),
        state=json_object("\n".join(sections["state"])),
        amd=_amd(sections["amd"]),
        system=look.system(sections),
        lease=tuple(sections["lease"][:2]),
        dropins=_dropins(sections["engine"]),
        gateway=_gateway(sections["gateway"]),
        watch=_watch(sections["engine"]),
        existing=adopt.read(sections["holders"]),
        here=_folders(sections["engine"], "here"),
        brought=tuple(_brought(sections["engine"])),
        mirror_allows=tuple(
            line.split()[1].rstrip(";") for line in sections["engine"] if _ALLOWS.fullmatch(line)
        ),
        state_is_damaged=_is_damaged("\n".join(sections["state"])),
    )


SECTIONS = (
    *("os", "machine", "login", "memory", "pci", "amd", "module", "gpus", "compute"),
    *("packages", "tools", "user", "units", "engine", "holders", "gateway", "files", "models"),
    *("api", "state", "lease", "end"),
)


def _sections(text: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("@@"):
            name = line[2:].strip()
            if name in sections:
                raise ProbeError(f"the probe's answer has the section {name} twice")
            current = sections[name] = []
        else:
            current.append(line)
    missing = [name for name in SECTIONS if name not in sections]
    if missing:
        raise ProbeError(f"the probe's answer has no section {', '.join(missing)}")
    return sections


def _pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    """`sha256sum` lines as (digest, path)."""
    split = (line.split(None, 1) for line in lines)
    return [(parts[0], parts[1].lstrip("*")) for parts in split if len(parts) == 2]


def _memory_mib(lines: list[str], key: str) -> int:
    for line in lines:
        parts = line.split()
        if len(parts) >= 2 and parts[0] == f"{key}:":
            return (number(parts[1]) or 0) // 1024
    return 0


def _pci(line: str) -> PciDevice:
    bdf, device_class, *ids, driver = line.split()
    vendor, device, subvendor, subdevice = (word.removeprefix("0x") for word in ids)
    return PciDevice(
        bdf=bdf,
        device_class=device_class.removeprefix("0x"),
        vendor=vendor,
        device=device,
        subsystem=f"{subvendor}:{subdevice}",
        driver=None if driver == "-" else driver,
    )


def _amd(lines: list[str]) -> Amd:
    rows = (line.split() for line in lines)
    cards = (row[1:] for row in rows if len(row) == 4 and row[0] == "card")
    gpus = (AmdGpu(bdf, device[2:], number(size) or 0) for bdf, device, size in cards)
    return Amd("kfd" in lines, tuple(sorted(gpus, key=lambda gpu: gpu.bdf)))


def _units(lines: list[str]) -> dict[str, Unit]:
    units = {}
    for block in "\n".join(lines).split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in facts:
            units[facts["Id"]] = Unit(
                load=facts.get("LoadState", ""),
                active=facts.get("ActiveState", ""),
                sub=facts.get("SubState", ""),
                result=facts.get("Result", ""),
                invocation=facts.get("InvocationID", ""),
                enabled=facts.get("UnitFileState") == "enabled",
                needs_reload=facts.get("NeedDaemonReload") == "yes",
            )
    return units


def _engine_current(lines: list[str]) -> str | None:
    return next((line for line in lines if line and " " not in line), None)


_GATEWAY_WORDS = ("current ", "pending ", "knows ")
# These two end in files and commands of other hosts, the fleet gateways: nothing else may.
_POOL = re.compile(r"[0-9a-f]{12}")
_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/]+=*\n)+-----END CERTIFICATE-----\n"
)


def _gateway(lines: list[str]) -> Gateway:
    words = dict(line.split(" ", 1) for line in lines if line.startswith(_GATEWAY_WORDS))
    root = "".join(f"{line.removeprefix('root ')}\n" for line in lines if line.startswith("root "))
    return Gateway(
        current=words.get("current", "").strip() or None,
        versions=_folders(lines, "versions") - {"current"},
        pools=frozenset(filter(_POOL.fullmatch, _folders(lines, "pools"))),
        pending=words.get("pending", "").strip(),
        drained="drained" in lines,
        knows=words.get("knows", ""),
        root=root if _CERTIFICATE.fullmatch(root) else "",
    )


def _folders(lines: list[str], word: str) -> frozenset[str]:
    """The names of the folders that a line with this first word lists."""
    listed = next((line for line in lines if line.startswith(f"{word} ")), "")
    names = {path.rstrip("/").rsplit("/", 1)[-1] for path in listed.split()[1:]}
    return frozenset(names - {"*"})


def _watch(lines: list[str]) -> Watch | None:
    found = [line.removeprefix("watch ") for line in lines if line.startswith("watch ")]
    facts = {key: value for key, _, value in (line.partition("=") for line in found)}
    repairs = (number(word) for word in facts.get("repairs", "").split())
    return (
        Watch(
            faults=tuple(facts.get("faults", "").split()),
            what=facts.get("what", ""),
            since_s=number(facts.get("since", "")) or 0,
            repairs_s=tuple(stamp for stamp in repairs if stamp),
        )
        if facts
        else None
    )


_ALLOWS = re.compile(r"allows [0-9a-fA-F:./]+;")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+\.\d+.*")  # somebody's archive in /opt/ollama has bin and lib there
_BROUGHT = re.compile(r"brought (user|tool|driver) ([a-z0-9][a-z0-9+._-]*)")


def _brought(lines: list[str]) -> Iterable[tuple[str, str]]:
    found = (_BROUGHT.fullmatch(line) for line in lines)
    return dict.fromkeys((match[1], match[2]) for match in found if match)


def _dropins(lines: list[str]) -> tuple[str, ...]:
    return tuple(line.removeprefix("dropin ") for line in lines if line.startswith("dropin "))


def _is_damaged(text: str) -> bool:
    return bool(text.strip()) and not json_object(text)


def _models(lines: list[str]) -> ModelStore:
    kind, owner, size_kib, free_kib, mount = None, "", 0, 0, ""
    manifests, blobs = {}, {}
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "is":
            kind, owner, _mode = rest.split("|")
        elif word == "disk":
            size, free, mount = rest.split(" ", 2)
            size_kib, free_kib = number(size) or 0, number(free) or 0
        elif _SHA256.fullmatch(word):
            manifests[rest.split("/manifests/", 1)[1]] = word
        elif word == "blob":
            size, path = rest.split(" ", 1)
            blobs[path.rsplit("/", 1)[1]] = number(size) or 0
    return ModelStore(kind, owner, size_kib * 1024, free_kib * 1024, mount, manifests, blobs)
