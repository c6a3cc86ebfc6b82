"""Base images: one bare Debian per release, the read-only lower layer of every host."""

import hashlib
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

from lab import hardware
from lab.locking import locked
from lab.paths import APT_PROXY_PORT, GATEWAY, SOURCE, cache_dir
from lab.shell import LabError, run
from lab.signing import public_key
from lab.spec import Release

# What a freshly installed server has and no more: no driver, no engine, no Python.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "curl", "iproute2"),
    *("kmod", "pciutils", "ca-certificates", "zstd"),
)

# Where a host sees its simulated kernel files (its `sim` folder).
SIM = Path("/usr/lib/r1lab/sim")

# Work that would start by itself and change files while a test looks; the console has no person.
MASKED = (
    *("apt-daily.timer", "apt-daily.service", "apt-daily-upgrade.timer"),
    *("apt-daily-upgrade.service", "dpkg-db-backup.timer", "console-getty.service"),
)

FILES = {
    "etc/apt/apt.conf.d/90lab-proxy": f"""\
        Acquire::http::Proxy "http://{GATEWAY}:{APT_PROXY_PORT}";
        Acquire::http::Proxy::{GATEWAY} "DIRECT";
        """,
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/resolv.conf": "# The lab has no name server: hosts reach the lab's services only.\n",
    "etc/ssh/sshd_config.d/10-lab.conf": """\
        HostKey /etc/ssh/ssh_host_ed25519_key
        AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/lab_keys
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        PermitRootLogin prohibit-password
        """,
    "etc/sudoers.d/ops": "ops ALL=(ALL) NOPASSWD: ALL\n",
    "etc/systemd/journald.conf.d/10-lab.conf": """\
        [Journal]
        Storage=persistent
        SystemMaxUse=32M
        """,
}

# systemd-nspawn mounts these after what --bind names and would cover it; the host mounts there
# itself, before anything asks for hardware.
COVERED = (
    *("/proc/", "/sys/block/", "/sys/bus/", "/sys/class/", "/sys/dev/", "/sys/devices/"),
    "/sys/kernel/",
)

MOUNT_UNIT = """\
    [Unit]
    Description=Simulated {where}
    DefaultDependencies=no
    Before=r1lab-kernel.service systemd-modules-load.service systemd-udevd.service local-fs.target
    Conflicts=umount.target

    [Mount]
    What={what}
    Where={where}
    Type=none
    Options=bind,{mode}
    """

Progress = Callable[[str], None]


def is_mounted_inside(target: str) -> bool:
    """Whether a simulated file lies where only the host itself can mount it."""
    return target.startswith(COVERED)


def find_base(release: Release) -> Path | None:
    """The finished base image of a release, if there is one; nothing is built."""
    root = cache_dir() / "bases" / release / _key(release) / "root"
    return root if root.exists() else None


def ensure_base(release: Release, progress: Progress) -> Path:
    """Root of the base image of a release, built when its recipe has changed (about a minute).

    `progress` is told what is being done. Raises LabError with mmdebstrap's last words.
    """
    home = cache_dir() / "bases" / release
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock", "the same image", progress):
        if found := find_base(release):
            return found
        for leftover in home.glob("new-*"):
            shutil.rmtree(leftover)
        new = home / f"new-{_key(release)}"
        new.mkdir(mode=0o755)
        _bootstrap(release, new / "root", progress)
        progress("settings of the lab")
        _configure(release, new / "root")
        new.rename(home / _key(release))
    return home / _key(release) / "root"


def prune_bases(in_use: set[Path]) -> None:
    """Remove base images whose recipe is out of date and which no host stands on."""
    for root in (cache_dir() / "bases").glob("*/*/root"):
        home = root.parent
        current = home.name == _key(home.parent.name)
        if not (current or root in in_use or home.name.startswith("new-")):
            shutil.rmtree(home)


def _key(release: str) -> str:
    """Hash of all that goes into a base image: this recipe and the simulated kernel's parts."""
    guest = sorted(path for path in (SOURCE / "guest").rglob("*") if path.is_file())
    # The gateway's address is in its apt configuration: another lab's base is of no use.
    digest = hashlib.sha256(release.encode() + GATEWAY.encode() + public_key())
    for path in (Path(__file__), Path(hardware.__file__), *guest):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _bootstrap(release: Release, root: Path, progress: Progress) -> None:
    # A mount and process namespace of its own, ended with this process: an interrupted build
    # leaves neither mounts in the tree nor a process that still writes to it.
    command = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *(release, str(root)),
    ]
    environment = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    last: deque[str] = deque(maxlen=3)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        for line in process.stderr or ():
            if line.strip():
                last.append(line.strip())
            if line.startswith("I: "):
                progress(line[3:].strip())
    if process.returncode != 0:
        raise LabError(
            f"base image {release}: mmdebstrap ended with {process.returncode}: "
            f"{' | '.join(last)}; check that this machine reaches the Debian archive, then retry"
        )


def _configure(release: Release, root: Path) -> None:
    for name, text in FILES.items():
        _write(root / name, dedent(text))
    (root / "etc/sudoers.d/ops").chmod(0o440)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    units = root / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
    for source, target, read_only in hardware.binds(SIM):
        if is_mounted_inside(target):
            _mount_unit(units, source, target, read_only)
    chroot = ("chroot", str(root))
    run(*chroot, "useradd", "--create-home", "--uid", "1000", "--shell", "/bin/bash", "ops")
    run(*chroot, "systemctl", "enable", "systemd-networkd.service", "ssh.service")
    if release == "trixie":
        _modernise_sources(root)
    hardware.install_guest(root)


def _modernise_sources(root: Path) -> None:
    """Write the apt sources as Debian 13's own installer does: deb822, with the archive's key."""
    listed = root / "etc/apt/sources.list"
    stanzas = []
    for line in listed.read_text().splitlines():
        kind, uri, suite, *components = line.split()
        stanzas.append(
            f"Types: {kind}\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(components)}\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp\n"
        )
    _write(root / "etc/apt/sources.list.d/debian.sources", "\n".join(stanzas))
    listed.unlink()


def _mount_unit(units: Path, source: Path, target: str, read_only: bool) -> None:
    name = run("systemd-escape", "--path", "--suffix=mount", target).strip()
    mode = "ro" if read_only else "rw"
    _write(units / name, dedent(MOUNT_UNIT).format(what=source, where=target, mode=mode))
    wanted = units / "local-fs.target.wants" / name
    wanted.parent.mkdir(exist_ok=True)
    wanted.symlink_to(f"../{name}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
