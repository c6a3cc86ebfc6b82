"""The lab's hosts: made from a base image, booted, stopped, cut off, removed."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from lab import cgroups, hardware, identity, network, odd
from lab.base import SIM, is_mounted_inside
from lab.paths import BRIDGE, FIRST_HOST, NETWORK, SOURCE, host_dir, lab_dir
from lab.shell import LabError, Refusal, run
from lab.spec import GpuSpec, HostSpec, LabSpec, Release

State = Literal["up", "booting", "down"]
Bind = tuple[Path, str, bool]
Progress = Callable[[str], None]

# The last two addresses of the network and those below FIRST_HOST are not for hosts.
CAPACITY = NETWORK.num_addresses - FIRST_HOST - 1

# Runs in the host's control groups from its first moment: two starts at once cannot both win.
ENTER = 'for group in $LAB_GROUPS; do echo $$ >"$group/cgroup.procs" || exit 1; done; exec "$@"'


class Host(BaseModel):
    """What a host was made of; kept beside it, so that it can be started without the lab file."""

    name: str
    address: str
    hardware: HostSpec
    gpus: tuple[GpuSpec, ...]
    base: Path
    binds: tuple[Bind, ...] = ()


def existing() -> dict[str, Host]:
    """The hosts that were made and not removed, running or not."""
    files = sorted((lab_dir() / "hosts").glob("*/host.json"))
    found = (Host.model_validate_json(path.read_text()) for path in files)
    return {host.name: host for host in found}


def get(name: str) -> Host:
    """One host. Raises Refusal naming those that exist."""
    known = existing()
    if name not in known:
        names = ", ".join(known) or "none; run: r1fleet lab up"
        raise Refusal(f"the lab has no host {name!r}; hosts: {names}")
    return known[name]


def is_running(name: str) -> bool:
    """Whether the host has power (it may still be booting)."""
    return bool(cgroups.members(name))


def state(host: Host) -> State:
    """Whether a host is up (SSH takes connections), has power only, or is down."""
    if not is_running(host.name):
        return "down"
    with suppress(OSError), socket.create_connection((host.address, 22), timeout=1):
        return "up"
    return "booting"


def up(
    spec: LabSpec, bases: Mapping[Release, Path], binds: Iterable[Bind], progress: Progress
) -> None:
    """Make the lab's hosts those of the lab file and start the ones that are down.

    A host that is unchanged keeps its address and its files; one whose hardware or release
    changed is made anew. `binds` are mounted in every host beside its simulated kernel files.
    """
    before = existing()
    for name, host in before.items():
        if name not in spec.hosts or not _same(host, spec):
            progress(f"removing {name}")
            remove(name)
    kept = existing()
    addresses = assign_addresses(list(spec.hosts), {n: h.address for n, h in kept.items()})
    identity.make_ssh_key()
    for name, wanted in spec.hosts.items():
        if name not in kept:
            progress(f"making {name}")
        base = kept[name].base if name in kept else bases[wanted.release]
        _make(
            Host(
                name=name,
                address=addresses[name],
                hardware=wanted,
                gpus=spec.gpus_of(name),
                base=base,
                binds=tuple(binds),
            )
        )
    _tell_keys()
    for name in spec.hosts:
        if not is_running(name):
            progress(f"booting {name}")
            start(name)


def assign_addresses(names: list[str], taken: Mapping[str, str]) -> dict[str, str]:
    """Address per host: the one it has, else the one of its place in the file, else a free one."""
    free = [str(NETWORK[FIRST_HOST + index]) for index in range(CAPACITY)]
    wanted = dict(zip(names, free, strict=False))
    result = dict(taken)
    for name in names:
        if name not in result:
            used = set(result.values())
            choices = [wanted[name], *free] if name in wanted else free
            result[name] = next(address for address in choices if address not in used)
    return {name: result[name] for name in names}


def start(name: str) -> None:
    """Give a host power. Does nothing when it has it; returns before it has booted."""
    host = get(name)
    if is_running(name):
        return
    home = host_dir(name)
    shutil.rmtree(home / "sim.pristine", ignore_errors=True)
    hardware.write_tree(name, host.hardware, host.gpus, home / "sim.pristine")
    network.unplug(host.address)
    groups = cgroups.create(name)
    with (home / "console.log").open("ab") as log:
        subprocess.run(
            [
                *("sh", "-c", ENTER, "sh"),
                *("setsid", "--fork", "unshare", "--mount", "--propagation", "slave"),
                *("sh", str(SOURCE / "supervisor.sh"), str(home), str(host.base)),
                *_nspawn(host, hardware.binds(home / "sim")),
            ],
            env={"PATH": os.environ["PATH"], "LAB_GROUPS": " ".join(map(str, groups))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            check=True,
        )


def stop(name: str, timeout_s: float = 100) -> None:
    """Shut a host down as its own `poweroff` would; it stays down.

    A host that has not ended after `timeout_s` (a unit may take 90 s to stop) loses its power.
    """
    get(name)
    with suppress(OSError, ValueError):
        pid = int((host_dir(name) / "nspawn.pid").read_text())
        if pid in cgroups.members(name):
            # systemd-nspawn hands this on as a request to power off.
            os.kill(pid, signal.SIGTERM)
            cgroups.wait_empty(name, timeout_s)
    cut(name)


def cut(name: str) -> None:
    """Take a host's power away: every process of it ends at once, nothing is written any more."""
    host = get(name)
    cgroups.kill(name)
    (host_dir(name) / "nspawn.pid").unlink(missing_ok=True)
    network.unplug(host.address)


def cycle(name: str) -> None:
    """Cut a host's power and give it back."""
    cut(name)
    start(name)


def remove(name: str) -> None:
    """Cut a host's power and delete all it has written."""
    cut(name)
    shutil.rmtree(host_dir(name))


def reset(name: str) -> None:
    """Remove a host and make it anew, of the same hardware at the same address, and start it."""
    host = get(name)
    remove(name)
    _make(host)
    _tell_keys()
    start(name)


def wait_ready(names: Iterable[str], timeout_s: float = 180) -> None:
    """Wait until hosts have finished booting and answer on SSH with the key they should have.

    Raises LabError naming those that do not, with the last line of their console.
    """
    hosts = [get(name) for name in names]
    deadline = time.monotonic() + timeout_s
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda host: _wait_ready(host, deadline), hosts))
    silent = [host.name for host, answer in zip(hosts, answers, strict=True) if not answer]
    if silent:
        raise LabError("\n".join(_why_silent(name) for name in silent))


def down() -> None:
    """Cut the power of all hosts, those of an interrupted or deleted lab too, and remove them."""
    cgroups.kill(*cgroups.names())
    for host in existing().values():
        network.unplug(host.address)
    shutil.rmtree(lab_dir() / "hosts", ignore_errors=True)


def _wait_ready(host: Host, deadline: float) -> bool:
    # The state itself is not judged: a failed unit is for whoever looks, not for the lab.
    command = identity.ssh_command(
        host.address, "systemctl is-system-running --wait >/dev/null; true"
    )
    while (left := deadline - time.monotonic()) > 0 and is_running(host.name):
        with suppress(LabError):
            run(*command, timeout_s=left)
            return True
        time.sleep(0.3)
    return False


def _why_silent(name: str) -> str:
    log = host_dir(name) / "console.log"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    state = "does not answer on SSH" if is_running(name) else "went down while it booted"
    return f"{name}: {state}; its console ({log}) says last: {last}"


def _tell_keys() -> None:
    identity.write_known_hosts({host.name: host.address for host in existing().values()})


def _same(host: Host, spec: LabSpec) -> bool:
    return host.hardware == spec.hosts[host.name] and host.gpus == spec.gpus_of(host.name)


def _nspawn(host: Host, simulated: Iterable[Bind]) -> list[str]:
    """Command line that boots a host in the foreground, until it is shut down or reboots."""
    binds = [bind for bind in simulated if not is_mounted_inside(bind[1])]
    taken = {target for _, target, _ in binds}
    binds += [bind for bind in host.binds if bind[1] not in taken]
    binds.append((host_dir(host.name) / "sim", str(SIM), False))
    return [
        *("systemd-nspawn", "--quiet", "--boot", f"--directory={host_dir(host.name) / 'root'}"),
        *(f"--machine={network.machine(host.address)}", f"--hostname={host.name}"),
        *("--register=no", "--keep-unit", "--settings=no", "--console=pipe"),
        *("--link-journal=no", "--resolv-conf=off", "--timezone=off"),
        f"--network-bridge={BRIDGE}",
        *(f"--bind{'-ro' if ro else ''}={source}:{target}" for source, target, ro in binds),
    ]


def _make(host: Host) -> None:
    """Write a host's folder, all of it or nothing, and its description."""
    home = host_dir(host.name)
    if not home.exists():
        new = home.parent / f".new-{host.name}"
        shutil.rmtree(new, ignore_errors=True)
        for folder in ("upper", "work", "root"):
            (new / folder).mkdir(parents=True)
        identity.write(host.name, host.address, new / "upper" / "etc")
        if host.hardware.odd:
            odd.write(new / "upper" / "etc")
        (new / "host.json").write_text(host.model_dump_json(indent=1))
        new.rename(home)
    (home / "host.json.new").write_text(host.model_dump_json(indent=1))
    (home / "host.json.new").rename(home / "host.json")
