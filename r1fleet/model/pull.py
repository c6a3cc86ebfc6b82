"""Operations that bring a model to a host.

`start` sets a transient unit of the host to work and returns; `finish` follows it to its end, so
that the driver and the engine can be installed meanwhile. The unit outlives the laptop, and a
later run re-attaches to it. Both share a `Pull`, which tells what was installed.
"""

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import outcome, paths
from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.model import manifest as manifests
from r1fleet.model import sources, unit
from r1fleet.model.manifest import (
    Blob,
    ManifestError,
    ModelManifest,
    ModelWanted,
    accepted_digest,
    human,
)
from r1fleet.moving import Moving, Speed
from r1fleet.remote import HostFailure, changed, host_task, say, step, tell, warn

Commands = Generator[FunctionCommand, None, None]

LOOKING = "lock"  # the stage in which nothing is changed yet
MAX_RESTARTS = 3  # of a unit that vanished, as in a power cut
GO_ON = "run again, it goes on where it stopped; the log is `journalctl -u r1fleet-pull`"


@dataclass
class Pull:
    """A model on its way to a host. `installed` is set as soon as it is there, whole."""

    want: ModelWanted
    installed: ModelManifest | None = None
    known: ModelManifest | None = None  # by our records, whether whole or not
    coming: ModelManifest | None = None
    raw: bytes = b""  # the manifest of what is coming, as served
    store: ModelStore = field(default_factory=ModelStore)
    begun: bool = False  # `start` has seen to it
    sent_again: set[str] = field(default_factory=set)  # blobs that a bundle sent once more
    placed: bool = False  # this run put files in place: what was proven before is no proof

    @property
    def digest(self) -> str:
        """The digest of what is there, else of what is to come; "" while neither is known."""
        known = self.installed or self.known or self.coming
        return known.digest if known else self.want.digest or ""

    def to_source(self, host: Host, why: str) -> bool:
        """Go on at the source where a mirror failed; False where nothing else may be asked."""
        beyond = self.want.at_source()
        if beyond is None:
            return False
        self.want = beyond
        warn(host, f"the mirror failed: {why}; {self.want.name} comes from the source")
        return True

    def sends(self, host: Host, stage: str, why: str) -> bool:
        """Send a blob of the bundle that only the host's own check found to be lacking."""
        lacks = why.removeprefix("not sent yet: ")
        if self.want.bundle is None or lacks == why or lacks in self.sent_again:
            return False
        self.sent_again.add(lacks)
        sources.check_blob(self.want, lacks)
        sources.upload_blob(host, stage, self.want, lacks)
        return True

    @property
    def go_on(self) -> str:
        """What to do after a failure."""
        mirror = "see to the mirror, or set mirror_fallback: True; " if self.want.mirrored else ""
        return mirror + GO_ON


@operation()
def check(want: ModelWanted, probe: Probe) -> Commands:
    """Fail a host for which the registry has another digest than the pinned one, while nothing
    has changed there yet. Asks only where the pinned one has to be fetched.

    + want: the model
    + probe: the host as it is
    """
    wanted = want.digest and not (want.source or want.bundle) and "curl" in probe.tools
    if wanted and accepted_digest(want, probe.models) is None:
        yield compare(LOOKING, f"compares the digest of {want.name}", want)


@operation()
def start(pull: Pull, probe: Probe) -> Commands:
    """Begin to fetch a model, unless the host has it; `finish` follows it.

    Nothing is contacted when the probe and its state.json show the model whole, unless it is to
    be checked deeply. Free space is checked before the first byte. What needs the engine begins
    in `finish`.

    + pull: what is wanted; filled in with what is found
    + probe: the host as it is
    """
    want, store = pull.want, probe.models
    pull.store, pull.begun = store, True
    digest = accepted_digest(want, store)
    pull.known = manifests.recorded(probe.state, want.name, digest) if digest else None
    if pull.known and not manifests.is_of_source(want, pull.known):
        pull.known = None
    if pull.known and not manifests.missing(pull.known, store.blobs) and not want.deep_check:
        pull.installed = pull.known
    elif not want.by_engine:
        yield begin("pull", _title(want), pull)


@operation()
def finish(pull: Pull) -> Commands:
    """Wait until the model is there, whole; fails the host with the reason if it never is.

    + pull: as left by `start`
    """
    if pull.installed:
        return
    if pull.want.by_engine:
        yield begin("pull", _title(pull.want), pull)
    if not pull.installed:
        yield follow("pull", f"follows the fetch of {pull.want.name}", pull)


@operation()
def cancel() -> Commands:
    """End the fetch that goes on on a host. What came stays, for a later run to go on from."""
    unit_name = paths.PULL_UNIT
    script = f"! systemctl is-active -q {unit_name} || systemctl stop {unit_name}"
    yield step("pull", "ends the fetch", script, "see systemctl(1)")


def _title(want: ModelWanted) -> str:
    return f"brings {want.name}" + (", by its checksums" if want.deep_check else "")


@host_task
def compare(host: Host, stage: str, title: str, want: ModelWanted) -> None:
    """Ask the registry for the digest, and write nothing."""
    say(host, stage, title)
    answer = unit.ask(host, want)
    if not answer.http.startswith("2") and (beyond := want.at_source()):
        want, answer = beyond, unit.ask(host, beyond)
    _check_digest(host, want, _served(want, answer))


@host_task
def begin(host: Host, stage: str, title: str, pull: Pull) -> None:
    """Take in what is there; else check digest and space and set the unit to work, or re-attach."""
    want = pull.want
    say(host, stage, title)
    if pull.store.kind not in (None, "directory"):
        why = f"{want.models_dir} is a {pull.store.kind}"
        raise HostFailure("the model directory", why, "remove it or set another ollama_models")
    accepted = accepted_digest(want, pull.store)
    seen = unit.look(host, want, held=accepted is not None)
    held = _held(want, seen, accepted)
    if held and not manifests.missing(held, pull.store.blobs):
        pull.coming, pull.raw = held, seen.manifest
    else:
        pull.coming, pull.raw = _coming(host, pull)
        want = pull.want
    if seen.running:
        if (seen.digest, seen.models) == (pull.coming.digest, want.models_dir):
            say(host, stage, f"{want.name} is being fetched already, follows it")
            _note_ours(host, want.name, pull.coming)
            return
        say(host, stage, f"stops the fetch of {_short(seen.digest)}, which is no longer wanted")
        unit.stop(host)
    lacking = manifests.missing(pull.coming, pull.store.blobs)
    to_come = manifests.bytes_to_fetch(lacking, seen.staged)
    if to_come:
        _check_space(want, to_come - manifests.stray_bytes(pull.coming, seen.staged), seen)
    # On its first arrival nothing is trusted by its size: a blob may be there from before us.
    deep = want.deep_check or pull.known != pull.coming
    if to_come:
        say(host, stage, f"fetches {want.name} {_short(pull.coming.digest)}, {human(to_come)}")
    else:
        say(host, stage, f"finds {want.name} {_short(pull.coming.digest)} there, checks its sums")
    _send(host, stage, want, lacking, seen)
    unit.launch(host, want, pull.coming, pull.raw, deep=deep)
    if to_come:
        _note_ours(host, want.name, pull.coming)


def _coming(host: Host, pull: Pull) -> tuple[ModelManifest, bytes]:
    """What is to come, and its manifest's bytes."""
    want = pull.want
    if want.source is None and want.bundle is None:
        return _from_registry(host, pull)
    raw = sources.manifest(host, want) if want.source else sources.packed_manifest(want)
    coming = manifests.parse(raw)
    _check_digest(host, want, coming)
    return coming, raw


def _send(
    host: Host, stage: str, want: ModelWanted, lacking: Iterable[Blob], seen: unit.Seen
) -> None:
    """What comes from the laptop: a file, or blobs of a bundle."""
    for blob in lacking:
        if want.source and want.source.digest == blob.digest:
            sources.upload(host, stage, want)
        if want.bundle and seen.staged.get(blob.hex, 0) < blob.size_bytes:
            sources.upload_blob(host, stage, want, blob.hex)


def _from_registry(host: Host, pull: Pull) -> tuple[ModelManifest, bytes]:
    """The manifest as the mirror or the registry serves it, held against the pinned digest."""
    answer = unit.ask(host, pull.want)
    if not answer.http.startswith("2") and pull.to_source(host, _no_answer(answer)):
        answer = unit.ask(host, pull.want)
    coming = _served(pull.want, answer)
    _check_digest(host, pull.want, coming)
    if answer.moved:
        text = f"its tag has {answer.moved} now, the pinned {_short(coming.digest)} is"
        outcome.of(host.name).notes.append(f"{pull.want.name}: {text} fetched by its digest")
    return coming, answer.manifest


def _note_ours(host: Host, name: str, coming: ModelManifest) -> None:
    """Only what r1fleet itself brings may it ever remove."""
    row = {**manifests.state_entry(coming), "name": name, "brought": True}
    outcome.of(host.name).brought.append(row)


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
                if status.state == "failed" and pull.sends(host, stage, status.reason):
                    unit.launch(host, pull.want, pull.coming, pull.raw, deep=True)
                    continue
                if status.state == "failed" and pull.to_source(host, status.reason):
                    unit.launch(host, pull.want, pull.coming, pull.raw, deep=True)
                    continue
                raise HostFailure(f"fetching {name}", status.reason, pull.go_on)
            restarts += 1
            if restarts > MAX_RESTARTS:
                why = f"its unit vanished {restarts} times"
                raise HostFailure(f"fetching {name}", why, "look at the host; " + GO_ON)
            say(host, stage, f"the fetch of {name} was cut off, goes on")
            unit.launch(host, pull.want, pull.coming, pull.raw, deep=True)
        else:
            rate = speed.note(time.monotonic(), status.done_bytes)
            moving = Moving(name, status.done_bytes, status.total_bytes, rate)
            comes = status.state not in ("checking", "installing") and status.total_bytes > 0
            tell(host, stage, unit.progress(name, status, rate), moving if comes else None)
    if status.digest != pull.coming.digest:
        why = f"the host has {status.digest}, wanted was {pull.coming.digest}"
        raise HostFailure(f"fetching {name}", why, "run again")
    if pull.want.authorization or pull.want.proxies:
        unit.forget_login(host, pull.coming)
    pull.installed = pull.coming
    if not status.placed:
        say(host, stage, f"{name} is there, whole, {human(pull.coming.size_bytes)}")
        return
    pull.placed = True
    mended = pull.known is not None and pull.known.digest == pull.coming.digest
    changed(host, f"model {name} {_short(pull.coming.digest)}{' mended' if mended else ''}")
    if pull.want.digest is None and pull.want.source is None and not mended:
        text = f"{name} is not locked, took {pull.coming.digest}"
        outcome.of(host.name).notes.append(f"{text} (`r1fleet lock` keeps it)")
    say(host, stage, f"{name} is there, {human(pull.coming.size_bytes)}")


def _held(want: ModelWanted, seen: unit.Seen, accepted: str | None) -> ModelManifest | None:
    """The manifest that is on the host, if it is sound and the one that is wanted."""
    try:
        held = manifests.parse(seen.manifest)
    except ManifestError:  # it is fetched anew
        return None
    return held if held.digest == accepted and manifests.is_of_source(want, held) else None


def _served(want: ModelWanted, seen: unit.Seen) -> ModelManifest:
    what = f"the manifest of {want.name}"
    if seen.http == "404":
        raise HostFailure(
            what, f"{want.registry_url} has no such tag", "check tag and registry_url"
        )
    if seen.http in ("401", "403"):
        why = f"{want.registry_url} answered {seen.http}"
        raise HostFailure(what, why, "check registry_login_file or registry_login_command")
    if not seen.http.startswith("2"):
        raise HostFailure(
            what,
            f"{_no_answer(seen)} ({want.registry_url})",
            "run again when the registry answers this host",
        )
    try:
        return manifests.parse(seen.manifest)
    except ManifestError as error:
        raise HostFailure(what, f"malformed, {error}", "check registry_url") from error


def _no_answer(seen: unit.Seen) -> str:
    return seen.error if seen.http == "000" else f"the registry answered {seen.http}"


def _check_digest(host: Host, want: ModelWanted, served: ModelManifest) -> None:
    if want.digest is not None and served.digest != want.digest:
        raise HostFailure(
            f"the digest of {want.name}",
            f"pinned is {want.digest}, the registry has {served.digest}",
            f"if the new one is wanted, run `r1fleet lock` again or pin it in model_digests:"
            f" {want.name!r}: {served.digest!r}",
        )
    known = (want.catalogue_digest or "").removeprefix("sha256:")
    if want.digest is None and known and not served.digest.startswith(f"sha256:{known}"):
        text = f"the registry has {served.digest}, the catalogue knows {known}"
        warn(host, f"{want.name}: {text}; took the registry's, pin it in model_digests")


def _check_space(want: ModelWanted, to_come: int, seen: unit.Seen) -> None:
    reserve = manifests.reserve_bytes(seen.disk_size_bytes)
    if to_come + reserve > seen.disk_free_bytes:
        raise HostFailure(
            f"no room for {want.name}",
            f"{human(to_come)} are to come and {human(reserve)} must stay free,"
            f" {want.models_dir} has {human(seen.disk_free_bytes)} free",
            "free some space or set ollama_models to a larger filesystem",
        )


def _short(digest: str) -> str:
    return digest[:19]
