"""The commands that bring a driver's packages to a host, exactly as they are run: pure.

They run as one script below driver/install.sh, which makes apt and dnf wait for their locks and
has the functions `finish_packages`, `add_components` and `need_package`.
"""

from fnmatch import fnmatchcase
from shlex import quote

from r1fleet.driver.choice import Wanted
from r1fleet.hostfacts import Probe
from r1fleet.longstep import RUN_DIR
from r1fleet.settings import Settings

# Everything that belongs to a driver, and the kernels it must agree with.
_HELD_APT = (
    *("*nvidia*", "libcuda*", "cuda-drivers*", "libnvcuvid1", "libnvoptix1"),
    *("linux-image-*", "linux-headers-*"),
)
_HELD_DNF = ("*nvidia*", "kernel*")
_HOLD_APT = (
    "apt-mark hold $(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n'"
    f" {' '.join(map(quote, _HELD_APT))} 2>/dev/null | sed -n 's/^.i *//p')"
)
_HOLD_DNF = f"dnf versionlock add {' '.join(map(quote, _HELD_DNF))}"
# Only what is ours to hold: dnf's `clear` would let go of other people's locks, too.
_UNHOLD = {
    "apt": _HOLD_APT.replace("hold", "unhold", 1),
    "dnf": "dnf versionlock delete '*nvidia*' 'kernel*' || :",
}
_PINNING = "nvidia-driver-pinning-"
_OPTIONS = {
    "apt": "apt-get install -y --allow-downgrades --no-install-recommends",
    "dnf": "dnf -y install --allowerasing --setopt=install_weak_deps=False",
}


def packages(wanted: Wanted, probe: Probe) -> tuple[str, ...]:
    """The packages of a driver on a host: headers first, the fabric manager where it belongs."""
    way = wanted.way
    names = [*way.headers, *_following(wanted, probe), *way.packages[wanted.flavour]]
    if probe.has_nvswitch or "nvlsm" in probe.system.marks:
        names += way.fabric
    if "nvlsm" in probe.system.marks:
        names += ["nvlsm", "infiniband-diags"]
    return tuple(wanted.fill(name, probe) for name in names)


def _following(wanted: Wanted, probe: Probe) -> list[str]:
    """Headers that come along with a new kernel, where the host follows its distribution's: dkms
    then builds the module before the next boot."""
    follows = wanted.fill("linux-image-{flavour}", probe) in probe.packages
    return [*wanted.way.follow] if follows else []


def fabric(wanted: Wanted, probe: Probe) -> tuple[str, ...]:
    """Brings the fabric manager of exactly the installed driver's version, and nothing else; ()
    where the way has none."""
    way, version = wanted.way, probe.driver.library
    mark = {"apt": "=", "dnf": "-"}[way.manager]
    names = [f"'{wanted.fill(name, probe)}{mark}{version}-*'" for name in way.fabric]
    if not names:
        return ()
    before = ("finish_packages", "apt-get update") if way.manager == "apt" else ()
    return (*before, f"{_OPTIONS[way.manager]} {' '.join(names)}")


def install(wanted: Wanted, probe: Probe, settings: Settings) -> tuple[str, ...]:
    """Every command that installs, changes or completes the driver, in order."""
    way = wanted.way
    names = [*packages(wanted, probe), *beside(wanted, probe)]
    last = [f"{_OPTIONS[way.manager]} {' '.join(names)}"]
    if way.manager == "apt":
        return (*_apt(wanted, probe, settings), *last, *_finish(probe))
    before, pin = (
        [wanted.fill(command, probe) for command in part] for part in (way.before, way.pin)
    )
    if probe.driver.library and probe.driver.library_branch != wanted.branch:
        last += ["dnf -y distro-sync '*nvidia*'"]
    asks = _asks(wanted, probe, (*way.needs, *way.headers))
    return (*asks, *before, *_dnf_repository(wanted, settings), *pin, *last)


def _asks(wanted: Wanted, probe: Probe, words: tuple[str, ...]) -> list[str]:
    names = [wanted.fill(word, probe) for word in words]
    return [f"need_package {quote(name)}" for name in names if name not in probe.packages]


def _apt(wanted: Wanted, probe: Probe, settings: Settings) -> list[str]:
    way = wanted.way
    commands = ["finish_packages", "apt-get update", *_asks(wanted, probe, way.headers)]
    if way.components and not settings.bundle:
        commands += [f"add_components {' '.join(way.components)}"]
    commands += _asks(wanted, probe, way.needs)
    if way.keyring and "cuda-keyring" not in probe.packages and not settings.bundle:
        commands += [*_keyring(wanted, settings), "apt-get update"]
    if way.pin:
        pins = [wanted.fill(name, probe) for name in way.pin]
        # Two pinning packages at once would leave the choice to chance.
        found = (name for name in probe.packages if name.startswith(_PINNING))
        gone = [f"{name}-" for name in sorted(found) if name not in pins]
        commands += [f"{_OPTIONS['apt']} {' '.join([*pins, *gone])}"]
    return commands


def _keyring(wanted: Wanted, settings: Settings) -> list[str]:
    name = wanted.way.keyring
    url = f"{_repository_url(wanted, settings)}/{name}"
    file = f"{RUN_DIR}/{name}"
    commands = [f"curl -fsSL --retry 3 --connect-timeout 15 -o {file} {quote(url)}"]
    if settings.driver_keyring_sha256:
        commands += [f"echo '{settings.driver_keyring_sha256}  {file}' | sha256sum -c --quiet -"]
    return [*commands, f"apt-get install -y {file}"]


def _dnf_repository(wanted: Wanted, settings: Settings) -> list[str]:
    if not wanted.way.repository:
        return []
    url, name = _repository_url(wanted, settings), f"cuda-{wanted.way.repository}-{wanted.arch}"
    lines = [f"[{name}]", f"name={name}", f"baseurl={url}", "enabled=1", "gpgcheck=1"]
    words = " ".join(quote(line) for line in [*lines, f"gpgkey={url}/D42D0685.pub"])
    return [f"printf '%s\\n' {words} >/etc/yum.repos.d/cuda-{wanted.way.repository}.repo"]


def _repository_url(wanted: Wanted, settings: Settings) -> str:
    return f"{settings.driver_repository_url}/{wanted.way.repository}/{wanted.arch}"


def beside(wanted: Wanted, probe: Probe) -> list[str]:
    """Parts of the installed driver that must come along to another version: desktop parts too."""
    old, planned = probe.driver.library, packages(wanted, probe)
    if wanted.way.manager != "apt" or not old or probe.driver.library_branch == wanted.branch:
        return []
    kernel_parts = ("dkms", "kernel", "modules", "headless", f"-{old.partition('.')[0]}")
    return [
        name
        for name, version in sorted(probe.packages.items())
        if f"{old}-" in f"{version}-"
        and name not in planned
        and not any(part in name for part in kernel_parts)
    ]


def _finish(probe: Probe) -> list[str]:
    """Builds the module for a kernel whose headers came after the driver."""
    if "dkms" not in probe.packages or probe.driver.on_disk:
        return []
    return [f"dkms autoinstall -k {quote(probe.kernel)}"]


def hold(manager: str) -> str:
    """Holds driver and kernel together: a new kernel without a module has no GPU."""
    return _HOLD_APT if manager == "apt" else _HOLD_DNF


def unhold(manager: str) -> str:
    return _UNHOLD[manager]


def is_ours_to_hold(name: str) -> bool:
    """Whether a package, or a lock of dnf's, is one that our holds name."""
    return any(fnmatchcase(name, pattern) for pattern in (*_HELD_APT, *_HELD_DNF))


def is_of_holds(command: str) -> bool:
    """Whether a command only holds packages, or lets go of them."""
    return command in (_HOLD_APT, _HOLD_DNF, *_UNHOLD.values())


def roll_back(before: dict[str, str], now: set[str], manager: str) -> tuple[str, ...]:
    """Brings the recorded packages (name -> version) back and takes newer ones of ours away."""
    if manager == "dnf":
        names = [f"{name}-{version}" for name, version in sorted(before.items())]
        return (f"dnf -y install --allowerasing {' '.join(names)}",)
    listed = [f"{name}={version}" for name, version in sorted(before.items())]
    listed += [f"{name}-" for name in sorted(now - set(before))]
    # What pins the branch comes first, alone: it decides what the others' dependencies mean.
    pins = [word for word in listed if word.startswith(_PINNING)]
    rest = [word for word in listed if word not in pins]
    parts = [f"{_OPTIONS['apt']} {' '.join(words)}" for words in (pins, rest) if words]
    return ("finish_packages", "apt-get update", *parts)
