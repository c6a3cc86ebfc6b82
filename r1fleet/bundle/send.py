"""Sending files of a bundle to a host, each checked there by its SHA-256."""

from collections.abc import Iterable, Mapping

from pyinfra.api import FunctionCommand, Host

from r1fleet import paths
from r1fleet.bundle.contents import (
    AGAIN,
    Bundle,
    BundleError,
    Engine,
    PackageSet,
    field,
    read,
    stanzas,
)
from r1fleet.bundle.fetch import sha256
from r1fleet.bundle.packages import SIMULATE, SOURCES, installs
from r1fleet.model.manifest import human
from r1fleet.model.sources import send_file
from r1fleet.remote import HostFailure, Result, host_task, run, say, step
from r1fleet.shell import assign, receive

ENGINE_DIR = f"{paths.BUNDLE_DIR}/engine"
GATEWAY_DIR = f"{paths.BUNDLE_DIR}/gateway"
PACKAGES_DIR = f"{paths.BUNDLE_DIR}/packages"

# The folder is of whoever logs in, who has root's rights anyway: nobody else can add to it.
_MAKE_ROOM = """
[ -d "$STATE" ] || install -d -m 755 "$STATE" || exit 1
install -d -m 755 "$STATE/bundle" || exit 1
install -d -m 700 "$TARGET" || exit 1
who=${SUDO_USER:-${DOAS_USER-}}
[ -z "$who" ] || chown "$who" "$TARGET" || exit 1
df -Pk "$TARGET" | awk 'END { print "free", $4 }'
cd "$TARGET" && stat -c 'has %s %n' -- * 2>/dev/null
exit 0
"""

_CHECK = """
cd "$TARGET" || exit 1
while read -r sum name; do
  found=$(sha256sum <"$name")
  [ "${found%% *}" = "$sum" ] || { rm -f "$name"; echo "$name"; }
done
"""


@host_task
def engine(host: Host, stage: str, title: str, place: str, version: str, arch: str) -> None:
    """Send the archives of a version to where its URLs then point."""
    say(host, stage, title)
    bundle = _bundle(place)
    found = bundle.engine(version, arch)
    if found is None:
        raise _lacks(f"Ollama {version} for {arch}")
    files(host, stage, bundle, _files_of(found), ENGINE_DIR)


def _files_of(found: Engine) -> tuple[str, ...]:
    return tuple(name for name in (found.archive, found.rocm, found.sums) if name)


@host_task
def gateway(host: Host, stage: str, title: str, place: str, version: str, arch: str) -> None:
    """Send Caddy of a version to where its URL then points."""
    say(host, stage, title)
    bundle = _bundle(place)
    found = bundle.gateway(version, arch)
    if found is None:
        raise _lacks(f"Caddy {version} for {arch}")
    files(host, stage, bundle, (found.archive, found.sums), GATEWAY_DIR)


@host_task
def packages(
    host: Host, stage: str, title: str, place: str, release: str, arch: str, names: tuple[str, ...]
) -> None:
    """Send an index of packages, and of these what the host's apt then finds that it lacks."""
    say(host, stage, title)
    bundle = _bundle(place)
    found = bundle.package_set(release, arch, names)
    if found is None:
        raise _lacks(f"packages for {release} ({arch}): {', '.join(names)}")
    _room(host, PACKAGES_DIR)
    index = bundle.index(found)
    here = assign({"STAGED": PACKAGES_DIR, "NAMES": " ".join(names)})
    script = here + receive(f"{PACKAGES_DIR}/Packages", index) + SOURCES + SIMULATE
    told = run(host, script, stdin=index, timeout_s=300)
    if not told.ok:
        raise HostFailure(title, told.reason, f"see apt-get on the host, or {AGAIN}")
    files(host, stage, bundle, _lacking(found, index, told), PACKAGES_DIR)


def _lacking(found: PackageSet, index: str, told: Result) -> tuple[str, ...]:
    """The files of a set that apt would install."""
    home = found.index.rpartition("/")[0]
    by_package = {
        (field(part, "Package"), field(part, "Version")): f"{home}/{field(part, 'Filename')}"
        for part in stanzas(index)
    }
    return tuple(by_package[one] for one in installs(told.stdout) if one in by_package)


def forget() -> FunctionCommand:
    """A step that takes away what an interrupted run has sent and not used."""
    title, script = "takes away what a bundle had sent", f"rm -rf {paths.BUNDLE_DIR}"
    return step("engine", title, script, f"remove {paths.BUNDLE_DIR}")


def files(host: Host, stage: str, bundle: Bundle, names: Iterable[str], target: str) -> None:
    """Send what a folder of the host lacks of these files, and check all of them there.

    A file that was cut off goes on where it stopped. Call it inside a host_task.
    """
    names = tuple(names)
    free, there = _room(host, target)
    rows = bundle.contents.files
    short = {name: rows[name].size_bytes - there.get(_plain(name), 0) for name in names}
    short = {name: size for name, size in short.items() if size > 0}
    to_come = sum(short.values())
    if to_come > free:
        what, has = f"{human(to_come)} are to come", f"{target} has {human(free)} free"
        raise HostFailure("no room for the bundle's files", f"{what}, {has}", "free some space")
    if short:
        say(host, stage, f"sends {len(short)} files of the bundle, {human(to_come)}")
    for name in short:
        path, plain = bundle.path(name), _plain(name)
        send_file(host, stage, name, path, f"{target}/{plain}", there.get(plain, 0))
    listed = "".join(f"{rows[name].sha256} {_plain(name)}\n" for name in names)
    checked = run(host, assign({"TARGET": target}) + _CHECK, stdin=listed, timeout_s=900)
    if not checked.ok:
        raise HostFailure("checking what was sent", checked.reason, "run again")
    if bad := {line.strip() for line in checked.stdout.splitlines()} - {""}:
        raise _damaged(bundle, [name for name in names if _plain(name) in bad])


def _damaged(bundle: Bundle, names: list[str]) -> HostFailure:
    """Whether it is the bundle itself, or what came of it."""
    for name in names:
        if sha256(bundle.path(name)) != bundle.contents.files[name].sha256:
            return HostFailure("the bundle", f"{name} is damaged", AGAIN)
    return HostFailure("what was sent", f"{', '.join(names)} came damaged", "run again")


def _room(host: Host, target: str) -> tuple[int, Mapping[str, int]]:
    """Makes a folder for what is sent: bytes free there, and what it has already."""
    made = run(host, assign({"STATE": paths.STATE_DIR, "TARGET": target}) + _MAKE_ROOM)
    if not made.ok:
        raise HostFailure(f"making {target}", made.reason, "check the free space and rights there")
    free, there = 0, {}
    for line in made.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == "free":
            free = int(rest) * 1024
        elif word == "has":
            size, _, name = rest.partition(" ")
            there[name] = int(size)
    return free, there


def _bundle(place: str) -> Bundle:
    try:
        return read(place)
    except BundleError as error:
        raise HostFailure("the bundle", error.lines[0], "") from error


def _lacks(what: str) -> HostFailure:
    return HostFailure("the bundle", f"it lacks {what}", AGAIN)


def _plain(name: str) -> str:
    return name.rpartition("/")[2]
