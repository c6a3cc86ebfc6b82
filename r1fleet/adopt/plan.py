"""What becomes of an Ollama that is there: taken over, or refused with the way out. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from r1fleet.adopt.facts import Existing
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings

Refusal = tuple[str, str, str]  # what, why, what to do

UNIT = "ollama.service"
MODELS = "OLLAMA_MODELS"
# Units that people's own processes run in, which end with the process and never before it.
LOGINS = ("ssh", "sshd", "getty@", "serial-getty@", "console-getty", "systemd-")
# A drop-in with one of these would make another service of r1fleet's unit.
FOREIGN_KEYS = frozenset(
    {*("ExecStart=", "User=", "Group=", "DynamicUser=", "Type=", "EnvironmentFile=")}
    | {*("RootDirectory=", "RootImage=", "StateDirectory=")}
)
# What install.sh writes itself, and what says nothing of how the engine runs.
USUAL_KEYS = frozenset(
    {*("Description=", "After=", "Wants=", "ExecStart=", "User=", "Group=", "Restart=", "Type=")}
    | {*("RestartSec=", "WantedBy=", "WorkingDirectory=", "PATH", "HOME", MODELS)}
)
TEXTS = {
    "install.sh": "Ollama by install.sh, ollama.service",
    "package": "Ollama of the package {name}, ollama.service",
    "service": "Ollama of the unit {name}",
    "process": "`ollama serve` of the user {name}",
    "docker": "Ollama of the container {name}",
    "snap": "Ollama of the snap",
}


@dataclass(frozen=True)
class Taking:
    """One Ollama that r1fleet takes the place of.

    + kind: a key of TEXTS
    + name: of the unit, package or container, or of the user whose process it is
    + models: its model directory, "" when it has none
    + owner: the user id that its models belong to
    + stays: whether its models keep their names there, too
    + pid: its process, 0 when it does not run
    + root: the folder below which its programs lie, for a look at what they do
    + unit_file: of its own, to be kept aside; "" where it stays where it is
    + restart: what Docker did when it ended
    + enabled: whether it started by itself
    """

    kind: str
    name: str
    models: str = ""
    owner: int = 0
    stays: bool = False
    pid: int = 0
    root: str = ""
    unit_file: str = ""
    restart: str = ""
    enabled: bool = False

    @property
    def text(self) -> str:
        """Who it is, for people."""
        return TEXTS[self.kind].format(name=self.name)

    def entry(self) -> dict[str, Any]:
        """As state.json notes it, under "adopted"."""
        return {**asdict(self), "from": self.text}


@dataclass(frozen=True)
class Plan:
    """What is to be done, what was found worth telling, and why nothing may be done."""

    takings: tuple[Taking, ...] = ()
    told: tuple[str, ...] = ()
    refusal: Refusal | None = None


def noted(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of state.json on what was taken over; those that are finished have an "at"."""
    rows = state.get("adopted")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def takings(state: Mapping[str, Any], *, finished: bool) -> tuple[Taking, ...]:
    """What earlier runs have taken over, or have begun to and not finished."""
    names = {field.name for field in fields(Taking)}
    rows = [row for row in noted(state) if ("at" in row) is finished and row.get("kind") in TEXTS]
    return tuple(
        Taking(**{key: value for key, value in row.items() if key in names}) for row in rows
    )


def plan(probe: Probe, settings: Settings) -> Plan:
    """What becomes of what the probe found."""
    begun = takings(probe.state, finished=False)
    wanted: list[Taking] = []
    told: list[str] = []
    seen = _each_once(probe.existing)
    for one in seen:
        taking = _taking(one, probe, settings)
        if not isinstance(taking, Taking):
            return Plan(refusal=taking)
        if settings.adopt == "refuse":
            return Plan(refusal=_unwanted(taking))
        told += _told(one, taking, settings)
        wanted.append(taking)
    known = {(taking.kind, taking.name) for taking in wanted}
    wanted += [taking for taking in begun if (taking.kind, taking.name) not in known]
    return Plan(tuple(wanted), tuple(told))


def _each_once(found: Iterable[Existing]) -> list[Existing]:
    """Without the holder of the port where it is what another row is about."""
    rows = list(found)
    others = {row.found for row in rows if row.found != "port"}
    return [row for row in rows if row.found != "port" or _owner_row(row) not in others]


def _owner_row(holder: Existing) -> str:
    if holder.unit == UNIT and not holder["cgroup"].startswith("/user.slice/"):
        return "unit"
    return "snap" if holder.unit.startswith("snap.ollama.") else ""


def _taking(one: Existing, probe: Probe, settings: Settings) -> Taking | Refusal:
    if one["odd"]:
        why = "the path of its model directory has other characters than those of ASCII"
        return ("an Ollama that is there", why, "give it another path, restart it, and run again")
    if one.found == "unit":
        found = _unit(one, probe)
    elif one.found == "snap":
        found = Taking("snap", "ollama", root="/snap/ollama", enabled=True)
    elif one["container"]:
        found = _container(one, settings)
    elif one["name"] == "ollama":
        found = _holder(one, settings)
    else:
        return _stranger(one, settings)
    if not isinstance(found, Taking):
        return found
    is_ours = one["same"] or one["models"] == settings.ollama_models
    models = "" if is_ours else one["models"]
    values = {**asdict(found), "models": models, "owner": one.number("owner")}
    values["pid"] = found.pid or one.number("pid")
    values["root"] = found.root or _root(one["exe"])
    return Taking(**values)


def _root(program: str) -> str:
    """/usr/local of /usr/local/bin/ollama: its llama-server lies below lib/ of that."""
    return program.rsplit("/", 2)[0] if program.count("/") > 2 else ""


def _unit(one: Existing, probe: Probe) -> Taking | Refusal:
    runs = one["exec"]
    if not one["fragment"].endswith(f"/systemd/system/{UNIT}"):  # it will be moved aside
        return (UNIT, f"its unit file {one['fragment']!r} is none", "look at the host")
    if runs.rpartition("/")[2] != "ollama":
        why = f"{one['fragment']} is there and runs {runs or 'nothing'}"
        return (UNIT, why, f"give it another name, or remove it: systemctl disable --now {UNIT}")
    for path, key in one.keys:
        if path != one["fragment"] and key in FOREIGN_KEYS:
            fix = f"take that line out, or remove {path}; the other lines may stay"
            return ("drop-in", f"{path} sets {key.rstrip('=')}, which is r1fleet's to set", fix)
    enabled = probe.unit(UNIT).enabled
    if one["package"]:
        return Taking("package", one["package"], enabled=enabled)
    return Taking("install.sh", UNIT, unit_file=one["fragment"], enabled=enabled)


def _container(one: Existing, settings: Settings) -> Taking | Refusal:
    name = one["container"].lstrip("/")
    if one["serves"] != "ollama":
        return _stranger(one, settings)
    if one["passing"] == "true":
        why = f"{_holds(settings)} the container {name}, which docker removes when it stops (--rm)"
        return (
            "port",
            why,
            "start it without --rm, on the same volume, then run again; or set another port",
        )
    if project := one["compose"].strip('"'):
        why = f"{_holds(settings)} the container {name}, which is part of {project}"
        how = f"docker stop {name}, and let the others reach {settings.base_url} on the host"
        return ("port", why, f"others may know it by its name there: {how}; or set another port")
    if not one["models"]:
        why = f"{_holds(settings)} the container {name}, whose models are on no volume"
        fix = f"docker cp {name}:/root/.ollama/models DIR and docker rm -f {name}, or another port"
        return ("port", why, fix)
    return Taking(
        "docker",
        name,
        stays=True,
        pid=one.number("inner"),
        root="/usr",
        restart=one["restart"] or "no",
        enabled=True,
    )


def _holder(one: Existing, settings: Settings) -> Taking | Refusal:
    """Ollama itself holds the port, in a process or a unit of another name."""
    cgroup, unit = one["cgroup"], one.unit
    if "/user@" in cgroup and unit.endswith(".service") and not unit.startswith("user@"):
        why = f"{_holds(settings)} {unit}, a unit of the user {one['user']}"
        how = f"as {one['user']}: systemctl --user disable --now {unit}"
        return ("port", why, f"{how}; its models are in {one['models'] or 'no known place'}")
    if any(word in cgroup for word in ("libpod", "kubepods", "docker", "lxc", "machine.slice")):
        why = f"{_holds(settings)} ollama in a container ({unit}, pid {one['pid']})"
        return ("port", why, "stop the container, or set another port")
    in_service = not cgroup.startswith("/user.slice/") and unit.endswith(".service")
    if in_service and not unit.startswith(LOGINS):
        if one["main"] == one["pid"]:
            return Taking("service", unit, enabled=True)
        why = f"{_holds(settings)} ollama (pid {one['pid']}), started by {unit}"
        return ("port", why, "see that it is started there no more, or set another port")
    return Taking("process", one["user"], stays=True)


def _stranger(one: Existing, settings: Settings) -> Refusal:
    who = one["name"] or "something that shows no process"
    if one["container"]:
        who = f"the container {one['container'].lstrip('/')} ({one['image']})"
    elif one["pid"]:
        who += f" (pid {one['pid']}, user {one['user']}, {one.unit or 'no unit'})"
    return ("port", f"{_holds(settings)} {who}", "stop it, or set another port")


def _holds(settings: Settings) -> str:
    return f"{settings.ollama_host} is held by"


def _unwanted(taking: Taking) -> Refusal:
    fix = "set adopt: auto to have r1fleet take its place, with its models, or remove it"
    return ("adopt", f"{taking.text} is there, and adopt is refuse", fix)


def _told(one: Existing, taking: Taking, settings: Settings) -> Iterable[str]:
    """What people should know before it happens, and find in the report after it."""
    models = "which has no models"
    if one["models"]:
        size = f"{one.number('kib') / 976562.5:.1f} GB"  # KiB to 10^9 bytes
        how = "" if one["near"] else ", copied, as they are on another filesystem"
        models = f"with its {len(one.models)} models ({size}) of {one['models']}{how}"
    yield f"{taking.text} is there: r1fleet takes its place, {models}"
    for name, value in sorted(one.env.items()):
        setting = name.lower()
        if name == MODELS or _same(value, getattr(settings, setting, None)):
            continue
        rules = f"the setting {setting} rules now"
        is_ours = setting in type(settings).model_fields
        yield f"its {name} was {value!r}: {rules if is_ours else 'see extra_env to keep it'}"
    for path in dict.fromkeys(path for path, _ in one.keys):
        names = [key.rstrip("=") for at, key in one.keys if at == path and key not in USUAL_KEYS]
        others = ", ".join(dict.fromkeys(names))
        if path != one["fragment"]:
            yield f"{path} stays in force ({others or 'nothing in it'}), where no setting rules"
        elif others and not one["package"]:
            yield f"{path} is kept aside, and no longer in force: its {others}"


def _same(value: str, ours: object) -> bool:
    if isinstance(ours, bool):
        return value.lower() in (("1", "true") if ours else ("0", "false", ""))
    if isinstance(ours, tuple):
        return value == ",".join(map(str, ours))
    return value == ("" if ours is None else str(ours))
