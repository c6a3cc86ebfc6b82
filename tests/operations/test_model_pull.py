"""model.pull against a registry on 127.0.0.1 and a host that is a folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1fleet import outcome
from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.model import made, pull, unit
from r1fleet.model.manifest import ModelSource, ModelWanted, parse, state_entry
from r1fleet.remote import Result
from tests.operations.fakehost import FakeHost
from tests.unit.build import bare
from tests.unit.registry import BIG, SMALL, Registry, serve, sha256

NAME = "deepseek-r1:14b"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as running:
        yield running


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path, tmp_path.name)


def job(host: FakeHost, registry: Registry, **changes: Any) -> pull.Pull:
    want = ModelWanted(NAME, registry.url, str(host.at("/srv/models")))
    return pull.Pull(replace(want, **changes))


def deliver(host: FakeHost, wanted: pull.Pull, probe: Probe | None = None) -> str | None:
    """Run both operations; the failure, if any."""
    if host.play(pull.start._inner(wanted, probe or bare())):
        host.play(pull.finish._inner(wanted))
    return outcome.of(host.name).failure


def installed(registry: Registry) -> ModelStore:
    blobs = {f"sha256-{sha256(data)}": len(data) for data in (BIG, SMALL)}
    path = f"registry.ollama.ai/library/{NAME.replace(':', '/')}"
    return ModelStore("directory", manifests={path: sha256(registry.manifest)}, blobs=blobs)


def put_blobs(host: FakeHost, big: bytes = BIG) -> Path:
    """Both blobs as a person would have brought them; `big` is what the large one holds."""
    folder = host.at("/srv/models/blobs")
    folder.mkdir(parents=True)
    (folder / f"sha256-{sha256(BIG)}").write_bytes(big)
    (folder / f"sha256-{sha256(SMALL)}").write_bytes(SMALL)
    return folder


def test_a_bare_host_gets_the_model(host: FakeHost, registry: Registry) -> None:
    wanted = job(host, registry)
    assert deliver(host, wanted) is None
    manifest = parse(registry.manifest)
    assert wanted.installed == manifest
    assert wanted.digest == manifest.digest
    models = host.at("/srv/models")
    assert (models / "manifests" / wanted.want.manifest_path).read_bytes() == registry.manifest
    assert (models / f"blobs/sha256-{sha256(BIG)}").read_bytes() == BIG
    assert host.starts() == ["started"]
    assert outcome.of(host.name).changes == [f"model {NAME} {manifest.digest[:19]}"]


def test_a_second_run_sends_no_command(host: FakeHost, registry: Registry) -> None:
    state = {"models": {NAME: state_entry(parse(registry.manifest))}}
    wanted = job(host, registry, digest=parse(registry.manifest).digest)
    probe = bare(models=installed(registry), state=state)
    assert list(pull.start._inner(wanted, probe)) == []
    assert list(pull.finish._inner(wanted)) == []
    assert wanted.installed == parse(registry.manifest)


@pytest.mark.parametrize("via", ["fetch", "api"])
def test_a_dry_run_contacts_nothing(host: FakeHost, registry: Registry, via: str) -> None:
    wanted = job(host, registry, via=via)
    titles = [
        command.args[1]
        for stage in (pull.start._inner(wanted, bare()), pull.finish._inner(wanted))
        for command in stage
    ]
    assert titles == [f"brings {NAME}", f"follows the fetch of {NAME}"]
    assert registry.requests == []


def test_a_model_that_is_not_in_our_records_is_taken_in(host: FakeHost, registry: Registry) -> None:
    wanted = job(host, registry)
    path = host.at("/srv/models/manifests") / wanted.want.manifest_path
    path.parent.mkdir(parents=True)
    path.write_bytes(registry.manifest)
    blobs = put_blobs(host)
    assert deliver(host, wanted, bare(models=installed(registry))) is None
    assert wanted.installed == parse(registry.manifest)
    assert registry.requests == []
    assert outcome.of(host.name).changes == []
    assert not wanted.placed
    assert (blobs / f"sha256-{sha256(BIG)}").read_bytes() == BIG


def test_a_recorded_model_that_has_lost_a_blob_is_mended(
    host: FakeHost, registry: Registry
) -> None:
    store = installed(registry)
    del store.blobs[f"sha256-{sha256(SMALL)}"]
    state = {"models": {NAME: state_entry(parse(registry.manifest))}}
    assert deliver(host, job(host, registry), bare(models=store, state=state)) is None
    assert (host.at("/srv/models/blobs") / f"sha256-{sha256(SMALL)}").read_bytes() == SMALL


def test_a_pinned_digest_that_the_registry_does_not_have(
    host: FakeHost, registry: Registry
) -> None:
    pinned = "sha256:" + "0" * 64
    failure = deliver(host, job(host, registry, digest=pinned))
    digest = parse(registry.manifest).digest
    assert failure == (
        f"pull: the digest of {NAME}: pinned is {pinned}, the registry has {digest};"
        " if the new one is wanted, run `r1fleet lock` again or pin it in model_digests:"
        f" {NAME!r}: {digest!r}"
    )
    assert host.starts() == []


def test_a_digest_that_the_catalogue_does_not_know_is_warned_of(
    host: FakeHost, registry: Registry
) -> None:
    wanted = job(host, registry, catalogue_digest="c333b7232bdb")
    assert deliver(host, wanted) is None
    (warning,) = outcome.of(host.name).warnings
    assert f"has {wanted.digest}, the catalogue knows c333b7232bdb" in warning


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": 404}, "has no such tag; check tag and registry_url"),
        ({"manifest": b"<html>"}, "malformed, Invalid JSON"),
    ],
)
def test_a_registry_without_a_usable_manifest(
    host: FakeHost, registry: Registry, changes: dict[str, Any], why: str
) -> None:
    for key, value in changes.items():
        setattr(registry, key, value)
    failure = deliver(host, job(host, registry))
    assert failure
    assert failure.startswith(f"pull: the manifest of {NAME}: ")
    assert why in failure
    assert host.starts() == []


def test_a_registry_that_answers_500(host: FakeHost, registry: Registry) -> None:
    registry.status = 500
    failure = deliver(host, job(host, registry))
    assert failure
    assert "the registry answered 500" in failure
    assert host.starts() == []
    registry.status = 200
    wanted = job(host, registry)
    deliver(host, wanted)
    assert wanted.installed


def test_no_registry(host: FakeHost, registry: Registry) -> None:
    failure = deliver(host, job(host, registry, registry_url="http://127.0.0.1:9"))
    assert failure
    assert "Failed to connect" in failure


def test_a_blob_that_cannot_be_had(host: FakeHost, registry: Registry) -> None:
    del registry.blobs[f"sha256:{sha256(BIG)}"]
    failure = deliver(host, job(host, registry))
    assert failure == (
        f"pull: fetching {NAME}: registry answered 404 for blob sha256:{sha256(BIG)[:12]};"
        f" {pull.GO_ON}"
    )


def test_a_full_disk_is_seen_before_the_first_byte(host: FakeHost, registry: Registry) -> None:
    host.tool("df", "#!/bin/sh\necho head\necho fs 10000 6000 4000 60% /srv\n")
    failure = deliver(host, job(host, registry))
    assert failure == (
        f"pull: no room for {NAME}: 5.0 MB are to come and 512.0 kB must stay free,"
        f" {host.at('/srv/models')} has 4.1 MB free;"
        " free some space or set ollama_models to a larger filesystem"
    )
    assert len(registry.requests) == 1


def test_what_is_staged_needs_no_room(host: FakeHost, registry: Registry) -> None:
    host.tool("df", "#!/bin/sh\necho head\necho fs 10000 6000 4000 60% /srv\n")
    staged = host.at("/srv/models/.r1fleet-staging") / sha256(BIG)
    staged.parent.mkdir(parents=True)
    staged.write_bytes(BIG[:2_000_000])
    assert deliver(host, job(host, registry)) is None


def test_a_model_directory_that_is_a_file(host: FakeHost, registry: Registry) -> None:
    probe = bare(models=ModelStore("regular file"))
    failure = deliver(host, job(host, registry), probe)
    assert failure
    assert "is a regular file; remove it or set another ollama_models" in failure
    assert registry.requests == []


def running(host: FakeHost, digest: str) -> None:
    (host.root / "unit").touch()
    status = host.at("/run/r1fleet-pull/status")
    status.parent.mkdir(parents=True)
    models = host.at("/srv/models")
    status.write_text(f"digest {digest}\nmodels {models}\nstate downloading\nreason \n")


def test_a_later_run_attaches_to_the_unit(host: FakeHost, registry: Registry) -> None:
    running(host, parse(registry.manifest).digest)
    wanted = job(host, registry)
    assert host.play(pull.start._inner(wanted, bare()))
    assert host.starts() == []


def test_the_fetch_of_another_digest_is_stopped(host: FakeHost, registry: Registry) -> None:
    running(host, "sha256:" + "0" * 64)
    assert deliver(host, job(host, registry)) is None
    assert host.starts() == ["stopped", "started"]


def test_a_unit_that_vanishes_is_started_again_three_times(
    host: FakeHost, registry: Registry
) -> None:
    host.tool("systemd-run", '#!/bin/sh\necho started >>"$ROOT/starts"\n')
    failure = deliver(host, job(host, registry))
    assert failure
    assert "its unit vanished 4 times" in failure
    assert host.starts() == ["started"] * 4


def test_ollamas_own_pull(host: FakeHost, registry: Registry) -> None:
    wanted = job(host, registry, via="api", engine_url=registry.url)
    registry.pull_lines = '{"status":"pulling manifest"}\n{"status":"success"}\n'
    path = host.at("/srv/models/manifests") / wanted.want.manifest_path
    path.parent.mkdir(parents=True)
    path.write_bytes(registry.manifest)  # what the engine would have put there
    assert deliver(host, wanted) is None
    assert [path for _, path, _ in registry.posts] == ["/api/pull", "/api/copy", "/api/delete"]
    assert wanted.installed == parse(registry.manifest)


def test_progress_for_people() -> None:
    status = unit.read(
        Result(True, "unit active\nstate downloading\ntotal 9000000000\ndone 4500000000\n", "")
    )
    assert unit.progress(NAME, status, 1e8) == (
        f"{NAME}: 50 %, 4.5 GB of 9.0 GB, 100.0 MB/s, 0 min 45 s left"
    )
    assert unit.progress(NAME, status, 0.0) == f"{NAME}: 50 %, 4.5 GB of 9.0 GB"
    assert unit.progress(NAME, replace(status, state="checking"), 0.0) == (
        f"{NAME}: checking what came, 9.0 GB in all"
    )


def recorded(registry: Registry) -> Probe:
    """A host whose model is whole, by its sizes and by our records."""
    state = {"models": {NAME: state_entry(parse(registry.manifest))}}
    return bare(models=installed(registry), state=state)


def put_manifest(host: FakeHost, wanted: pull.Pull, registry: Registry) -> None:
    path = host.at("/srv/models/manifests") / wanted.want.manifest_path
    path.parent.mkdir(parents=True)
    path.write_bytes(registry.manifest)


def test_a_deep_check_changes_nothing_where_all_is_sound(
    host: FakeHost, registry: Registry
) -> None:
    wanted = job(host, registry, deep_check=True)
    put_manifest(host, wanted, registry)
    put_blobs(host)
    assert deliver(host, wanted, recorded(registry)) is None
    assert wanted.installed == parse(registry.manifest)
    assert (outcome.of(host.name).changes, wanted.placed) == ([], False)
    assert registry.requests == []


def test_a_deep_check_mends_what_ollama_trusts(host: FakeHost, registry: Registry) -> None:
    wanted = job(host, registry, deep_check=True)
    put_manifest(host, wanted, registry)
    blobs = put_blobs(host, big=bytes(len(BIG)))
    assert deliver(host, wanted, recorded(registry)) is None
    assert (blobs / f"sha256-{sha256(BIG)}").read_bytes() == BIG
    digest = parse(registry.manifest).digest
    assert outcome.of(host.name).changes == [f"model {NAME} {digest[:19]} mended"]
    assert wanted.placed


def test_a_tag_that_has_moved_is_fetched_by_the_pinned_digest(
    host: FakeHost, registry: Registry
) -> None:
    pinned = parse(registry.manifest)
    registry.by_digest[pinned.digest] = registry.manifest
    registry.manifest += b"\n"
    wanted = job(host, registry, digest=pinned.digest)
    assert host.play(pull.check._inner(wanted.want, bare()))
    assert deliver(host, wanted) is None
    assert wanted.installed == pinned
    (note,) = outcome.of(host.name).notes
    assert note == (
        f"{NAME}: its tag has {parse(registry.manifest).digest} now, the pinned"
        f" {pinned.digest[:19]} is fetched by its digest"
    )


def test_another_digest_is_refused_while_nothing_has_changed(
    host: FakeHost, registry: Registry
) -> None:
    wanted = job(host, registry, digest="sha256:" + "0" * 64)
    before = sorted(host.root.rglob("*"))
    assert not host.play(pull.check._inner(wanted.want, bare()))
    failure = outcome.of(host.name).failure
    assert failure
    assert "pinned is sha256:000" in failure
    kept = [path for path in sorted(host.root.rglob("*")) if path not in before]
    assert [path for path in kept if "/run" not in str(path)] == []


def test_what_is_pinned_and_there_is_not_asked_for(host: FakeHost, registry: Registry) -> None:
    wanted = job(host, registry, digest=parse(registry.manifest).digest)
    assert list(pull.check._inner(wanted.want, recorded(registry))) == []
    assert list(pull.check._inner(job(host, registry).want, bare())) == []


def test_without_a_lock_the_digest_that_was_taken_is_told(
    host: FakeHost, registry: Registry
) -> None:
    wanted = job(host, registry)
    deliver(host, wanted)
    (note,) = outcome.of(host.name).notes
    assert note == f"{NAME} is not locked, took {wanted.digest} (`r1fleet lock` keeps it)"


@pytest.mark.parametrize("bearer", [False, True])
def test_a_login_reaches_the_registry_and_shows_in_no_script(
    host: FakeHost, registry: Registry, bearer: bool
) -> None:
    registry.login, registry.gives_tokens = "Basic bWU6c2VjcmV0", bearer
    failure = deliver(host, job(host, registry))
    assert failure
    assert "answered 401; check registry_login_file" in failure
    wanted = job(host, registry, authorization=registry.login)
    assert host.play(pull.start._inner(wanted, bare()))
    env = host.at("/var/lib/r1fleet/pull") / parse(registry.manifest).digest[7:19] / "env"
    assert env.stat().st_mode & 0o777 == 0o600
    assert registry.login in env.read_text()
    assert not any("bWU6c2VjcmV0" in script for script in host.scripts)
    assert not list(host.at("/run").glob("r1fleet-pull-ask"))


def test_what_other_fetches_left_half_done_counts_as_room(
    host: FakeHost, registry: Registry
) -> None:
    host.tool("df", "#!/bin/sh\necho head\necho fs 10000 6000 5000 50% /srv\n")
    assert "no room" in str(deliver(host, job(host, registry)))
    stray = host.at("/srv/models/.r1fleet-staging") / ("a" * 64)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(BIG[:2_000_000])
    outcome.of(host.name).failure = None
    assert deliver(host, job(host, registry)) is None
    assert not stray.exists()


def test_a_fetch_into_another_folder_is_not_followed(host: FakeHost, registry: Registry) -> None:
    running(host, parse(registry.manifest).digest)
    status = host.at("/run/r1fleet-pull/status")
    status.write_text(status.read_text().replace("/srv/models", "/srv/former"))
    assert deliver(host, job(host, registry)) is None
    assert host.starts() == ["stopped", "started"]


def test_a_model_of_a_file_on_the_host(host: FakeHost, registry: Registry) -> None:
    file = host.root / "x.gguf"
    file.write_bytes(BIG)
    source = ModelSource("path", str(file), sha256(BIG))
    wanted = job(host, registry, source=source)
    assert deliver(host, wanted) is None
    raw = made.manifest(source, len(BIG))
    assert wanted.installed == parse(raw)
    path = host.at("/srv/models/manifests") / wanted.want.manifest_path
    assert path.read_bytes() == raw
    assert (host.at("/srv/models/blobs") / f"sha256-{sha256(BIG)}").read_bytes() == BIG
    assert registry.requests == []
    blobs = {blob.file_name: blob.size_bytes for blob in parse(raw).blobs}
    store = ModelStore("directory", manifests={wanted.want.manifest_path: sha256(raw)}, blobs=blobs)
    probe = bare(models=store, state={"models": {NAME: state_entry(parse(raw))}})
    again = pull.Pull(wanted.want)
    assert list(pull.start._inner(again, probe)) == []
    assert again.installed == parse(raw)
    other = pull.Pull(replace(wanted.want, source=replace(source, sha256="0" * 64)))
    assert len(list(pull.start._inner(other, probe))) == 1


def test_a_file_that_is_not_there(host: FakeHost, registry: Registry) -> None:
    for kind, place in (("path", "/nowhere/x.gguf"), ("file", "nowhere/x.gguf")):
        source = ModelSource(kind, place, sha256(BIG))  # type: ignore[arg-type]
        outcome.of(host.name).failure = None
        failure = deliver(host, job(host, registry, source=source))
        assert failure
        assert failure.startswith(f"pull: the file of {NAME}: {place}: ")
        assert failure.endswith("check model_sources")


def test_a_fetch_is_ended_by_hand(host: FakeHost, registry: Registry) -> None:
    running(host, "sha256:" + "0" * 64)
    assert host.play(pull.cancel._inner())
    assert host.starts() == ["stopped"]
