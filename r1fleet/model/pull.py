"""Operations that bring a model to a host.

`start` sets a transient unit of the host to work and returns; `finish` follows it to its end, so
that the driver and the engine can be installed meanwhile. The unit outlives the laptop, and a
later run re-attaches to it. Both share a `Pull`, which tells what was installed.
"""

import base64
import time
from collections.abc import Generator
from dataclasses import dataclass, field

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.model import manifest as manifests
from r1fleet.model import unit
from r1fleet.model.manifest import ManifestError, ModelManifest, ModelWanted, human
from r1fleet.moving import Moving, Speed
from r1fleet.remote import HostFailure, changed, host_task, run, say, tell, warn
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]

MAX_RESTARTS = 3  # of a unit that vanished, as in a power cut
GO_ON = "run again, it goes on where it stopped; the log is `journalctl -u r1fleet-pull`"


@dataclass
class Pull:
    """A model on its way to a host. `installed` is set as soon as it is there, whole."""

    want: ModelWanted
    installed: ModelManifest | None = None
    coming: ModelManifest | None = None
    store: ModelStore = field(default_factory=ModelStore)
    begun: bool = False  # `start` has seen to it

    @property
    def digest(self) -> str:
        """The digest of what is there, else of what is to come; "" while neither is known."""
        known = self.installed or self.coming
        return known.digest if known else self.want.digest or ""


@operation()
def start(pull: Pull, probe: Probe) -> Commands:
    """Begin to fetch a model, unless the host has it; `finish` follows it.

    Nothing is contacted when the probe and its state.json show the model whole. Free space is
    checked before the first byte. With via="api" the work begins in `finish`: it needs the engine.

    + pull: what is wanted; filled in with what is found
    + probe: the host as it is
    """
    want, store = pull.want, probe.models
    pull.store, pull.begun = store, True
    digest = manifests.accepted_digest(want, store)
    known = manifests.recorded(probe.state, want.name, digest) if digest else None
    if known and not manifests.missing(known, store.blobs):
        pull.installed = known
    elif want.via == "fetch":
        yield begin("pull", f"brings {want.name}", pull)


@operation()
def finish(pull: Pull) -> Commands:
    """Wait until the model is there, whole; fails the host with the reason if it never is.

    + pull: as left by `start`
    """
    if pull.installed:
        return
    if pull.want.via == "api":
        yield begin("pull", f"brings {pull.want.name}", pull)
    if not pull.installed:
        yield follow("pull", f"follows the fetch of {pull.want.name}", pull)


@host_task
def begin(host: Host, stage: str, title: str, pull: Pull) -> None:
    """Take in what is there; else check digest and space and set the unit to work, or re-attach."""
    want = pull.want
    say(host, stage, title)
    if pull.store.kind not in (None, "directory"):
        why = f"{want.models_dir} is a {pull.store.kind}"
        raise HostFailure("the model directory", why, "remove it or set another ollama_models")
    pull.installed = _found(host, pull)
    if pull.installed:
        say(host, stage, f"finds {want.name} {_short(pull.installed.digest)} whole on the host")
        return
    seen = unit.look(host, want)
    pull.coming = _served(want, seen)
    _check_digest(host, want, pull.coming)
    if seen.running:
        if seen.digest == pull.coming.digest:
            say(host, stage, f"{want.name} is being fetched already, follows it")
            return
        say(host, stage, f"stops the fetch of {_short(seen.digest)}, which is no longer wanted")
        unit.stop(host)
    lacking = manifests.missing(pull.coming, pull.store.blobs)
    to_come = manifests.bytes_to_fetch(lacking, seen.staged)
    _check_space(want, to_come, seen)
    say(host, stage, f"fetches {want.name} {_short(pull.coming.digest)}, {human(to_come)}")
    unit.launch(host, pull.want, pull.coming)


@host_task
def follow(host: Host, stage: str, title: str, pull: Pull) -> None:
    """Wait for the unit, and tell how far it is."""
    assert pull.coming
    name = pull.want.name
    say(host, stage, title)
    restarts, speed = 0, Speed()
    while True:
        status = unit.poll(host, pull.coming)
        if not status.running:
            if status.state == "complete":
                break
            if status.state in ("failed", "stopped"):
                raise HostFailure(f"fetching {name}", status.reason, GO_ON)
            restarts += 1
            if restarts > MAX_RESTARTS:
                why = f"its unit vanished {restarts} times"
                raise HostFailure(f"fetching {name}", why, "look at the host; " + GO_ON)
            say(host, stage, f"the fetch of {name} was cut off, goes on")
            unit.launch(host, pull.want, pull.coming)
        else:
            rate = speed.note(time.monotonic(), status.done_bytes)
            moving = Moving(name, status.done_bytes, status.total_bytes, rate)
            comes = status.state not in ("checking", "installing") and status.total_bytes > 0
            tell(host, stage, unit.progress(name, status, rate), moving if comes else None)
    if status.digest != pull.coming.digest:
        why = f"the host has {status.digest}, wanted was {pull.coming.digest}"
        raise HostFailure(f"fetching {name}", why, "run again")
    pull.installed = pull.coming
    changed(host, f"model {name} {_short(status.digest)}")
    say(host, stage, f"{name} is there, {human(pull.coming.size_bytes)}")


def _found(host: Host, pull: Pull) -> ModelManifest | None:
    """A whole model that is there but not in our records; None when something of it lacks."""
    digest = manifests.accepted_digest(pull.want, pull.store)
    if digest is None:
        return None
    path = f"{pull.want.models_dir}/manifests/{pull.want.manifest_path}"
    read = run(host, assign({"R1_FILE": path}) + 'base64 -w0 "$R1_FILE"')
    try:
        found = manifests.parse(base64.b64decode(read.stdout))
    except ValueError:  # ManifestError too: it is fetched anew
        return None
    whole = found.digest == digest and not manifests.missing(found, pull.store.blobs)
    return found if whole else None


def _served(want: ModelWanted, seen: unit.Seen) -> ModelManifest:
    what = f"the manifest of {want.name}"
    if seen.http == "404":
        raise HostFailure(
            what, f"{want.registry_url} has no such tag", "check tag and registry_url"
        )
    if not seen.http.startswith("2"):
        why = seen.error if seen.http == "000" else f"the registry answered {seen.http}"
        raise HostFailure(
            what, f"{why} ({want.registry_url})", "run again when the registry answers this host"
        )
    try:
        return manifests.parse(seen.manifest)
    except ManifestError as error:
        raise HostFailure(what, f"malformed, {error}", "check registry_url") from error


def _check_digest(host: Host, want: ModelWanted, served: ModelManifest) -> None:
    if want.digest is not None and served.digest != want.digest:
        raise HostFailure(
            f"the digest of {want.name}",
            f"pinned is {want.digest}, the registry has {served.digest}",
            f"if the new one is wanted, pin it in model_digests: {want.name!r}: {served.digest!r}",
        )
    known = (want.catalogue_digest or "").removeprefix("sha256:")
    if want.digest is None and known and not served.digest.startswith(f"sha256:{known}"):
        text = f"the registry has {served.digest}, the catalogue knows {known}"
        warn(host, f"{want.name}: {text}; took the registry's, pin it in model_digests")


def _check_space(want: ModelWanted, to_come: int, seen: unit.Seen) -> None:
    reserve = manifests.reserve_bytes(seen.disk_size_bytes)
    if to_come and to_come + reserve > seen.disk_free_bytes:
        raise HostFailure(
            f"no room for {want.name}",
            f"{human(to_come)} are to come and {human(reserve)} must stay free,"
            f" {want.models_dir} has {human(seen.disk_free_bytes)} free",
            "free some space or set ollama_models to a larger filesystem",
        )


def _short(digest: str) -> str:
    return digest[:19]
