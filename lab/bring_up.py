"""What `lab up` does, in order. Each part finds what an earlier or interrupted run has left."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lab import caddy, checks, hosts, identity, network, services, state
from lab.base import ensure_base, find_base, prune_bases
from lab.caddy import Caddy
from lab.driver_repo import DISTRIBUTIONS, DriverRepo
from lab.engine import EngineDir, ensure, publish
from lab.paths import artifact_url, registry_url
from lab.spec import LabSpec, Release
from lab.state import HostState, LabState
from lab.steps import Steps


def bring_up(spec: LabSpec, steps: Steps) -> LabState:
    """Make the running lab the one of the lab file, and describe it in lab.json.

    Raises Refusal before anything was touched, LabError or RuntimeError later.
    """
    with steps.step("check this machine") as say:
        checks.install_programs(say)
        checks.preflight(spec)
        state.claim()
    bases, engine, gateway = _build(spec, steps)
    with steps.step("network and services"):
        network.up()
        repository = services.start(engine, gateway)
    with steps.step("publish models") as say:
        digests = publish(engine, registry_url())
        say(f"{len(digests)} tags")
    with steps.step(f"boot {len(spec.hosts)} hosts") as say:
        binds = [
            (engine.shapes, "/usr/lib/r1lab/shapes", True),
            (engine.simgpu, "/usr/lib/r1lab/simgpu", True),
        ]
        hosts.up(spec, bases, binds, say)
        lab_state = _describe(spec, engine, gateway, repository, digests)
        lab_state.save()
        say("waiting for SSH")
        hosts.wait_ready(spec.hosts)
        say("all answer on SSH")
    prune_bases({host.base for host in hosts.existing().values()})
    return lab_state


def _build(spec: LabSpec, steps: Steps) -> tuple[dict[Release, Path], EngineDir, Caddy]:
    """Base images, engine and Caddy, side by side; what was built before is in the cache."""

    def base(release: Release) -> Path:
        with steps.step(f"base image {release}") as say:
            if found := find_base(release):
                say("cached")
                return found
            return ensure_base(release, say)

    def engine() -> EngineDir:
        with steps.step("engine") as say:
            return ensure(say)

    def gateway() -> Caddy:
        with steps.step("Caddy") as say:
            return caddy.ensure(say)

    with ThreadPoolExecutor() as pool:
        releases = sorted({host.release for host in spec.hosts.values()})
        try:
            building, packing = pool.submit(engine), pool.submit(gateway)
            bases = dict(zip(releases, pool.map(base, releases), strict=True))
            return bases, building.result(), packing.result()
        except BaseException:
            # What still builds would hold up the end for minutes, and the next run finds it half
            # done all the same.
            for pid in _descendants(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            raise


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield from _descendants(child)
                yield child


def _describe(
    spec: LabSpec,
    engine: EngineDir,
    gateway: Caddy,
    repository: DriverRepo,
    digests: dict[str, str],
) -> LabState:
    made = hosts.existing()
    return LabState(
        hosts={
            name: HostState(
                address=made[name].address,
                release=made[name].hardware.release,
                gpus=tuple(gpu.name for gpu in made[name].gpus),
                listed=made[name].hardware.listed,
            )
            for name in spec.hosts
        },
        artifact_url=artifact_url(),
        registry_url=registry_url(),
        driver_repository_url=repository.base_url,
        driver_keyring_sha256={
            release: repository.keyring_sha256[distro] for release, distro in DISTRIBUTIONS.items()
        },
        engine_version=engine.version,
        engine_sha256=engine.archive_sha256,
        gateway_version=gateway.version,
        gateway_sha512=gateway.sha512,
        model_digests=digests,
        key=identity.ssh_key(),
        known_hosts=identity.known_hosts(),
    )
