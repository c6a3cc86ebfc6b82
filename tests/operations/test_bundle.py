"""Hosts that get everything from a bundle: sent by SFTP to a host that is a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from r1fleet import outcome, rollout
from r1fleet.bundle import contents, send
from r1fleet.fleet import HostRun
from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.mirror.plan import join
from r1fleet.model import pull
from r1fleet.model.manifest import ModelWanted, parse, state_entry
from r1fleet.settings import Settings, SettingsError
from tests.operations.fakehost import FakeHost
from tests.unit.build import bare, working
from tests.unit.bundles import ENGINE, NAME, make
from tests.unit.registry import BIG, SMALL, manifest, sha256

SETPRIV = '#!/bin/sh\nwhile :; do case $1 in --*) shift ;; *) exec "$@" ;; esac; done\n'
NOWHERE = "http://127.0.0.1:9"


class Sftp:
    """Files of the host, as paramiko opens them; what is sent is counted."""

    def __init__(self, host: FakeHost) -> None:
        self.host, self.sent_bytes = host, 0
        self.fails_after: int | None = None

    @contextlib.contextmanager
    def open_sftp(self) -> Iterator["Sftp"]:
        yield self

    @contextlib.contextmanager
    def open(self, path: str, mode: str) -> Iterator[Any]:
        place = Path(path)
        if not place.is_relative_to(self.host.root):
            place = self.host.at(path)
        with place.open(mode) as file:
            yield SimpleNamespace(set_pipelined=lambda on: None, write=self.writer(file))

    def writer(self, file: IO[Any]) -> Any:
        def write(data: bytes) -> None:
            if self.fails_after is not None and self.sent_bytes >= self.fails_after:
                raise OSError("the line is down")
            self.sent_bytes += file.write(data)

        return write


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / "host").mkdir()
    found = FakeHost(tmp_path / "host", tmp_path.name)
    found.tool("setpriv", SETPRIV)
    found.connector = SimpleNamespace(client=Sftp(found))
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    contents.read.cache_clear()
    return make(tmp_path / "bundle")


def sftp(host: FakeHost) -> Sftp:
    found: Sftp = host.connector.client
    return found


def deliver(host: FakeHost, bundle: Path, probe: Probe | None = None, **changes: Any) -> Any:
    """The failure, if any, of delivering the model; nothing answers where its registry is."""
    models = str(host.at("/srv/models"))
    outcome.of(host.name).failure = None
    wanted = pull.Pull(ModelWanted(NAME, NOWHERE, models, bundle=str(bundle), **changes))
    if host.play(pull.start._inner(wanted, probe or bare())):
        host.play(pull.finish._inner(wanted))
    return outcome.of(host.name).failure


def test_a_model_comes_from_the_bundle_alone(host: FakeHost, bundle: Path) -> None:
    assert deliver(host, bundle) is None
    models = host.at("/srv/models")
    assert (models / f"blobs/sha256-{sha256(BIG)}").read_bytes() == BIG
    path = f"manifests/registry.ollama.ai/library/{NAME.replace(':', '/')}"
    assert (models / path).read_bytes() == manifest()
    assert sftp(host).sent_bytes == len(BIG) + len(SMALL)
    assert list((models / ".r1fleet-upload").iterdir()) == []
    assert not any("curl" in script and NOWHERE in script for script in host.scripts)


def test_a_cut_line_costs_only_the_rest(host: FakeHost, bundle: Path) -> None:
    sftp(host).fails_after = 2_000_000
    assert "the line is down; run again, it goes on where it stopped" in deliver(host, bundle)
    came = sftp(host).sent_bytes
    assert 0 < came < len(BIG)
    sftp(host).fails_after = None
    assert deliver(host, bundle) is None
    assert sftp(host).sent_bytes == len(BIG) + len(SMALL)


def test_a_bundle_that_is_damaged_is_told_from_a_line_that_is(host: FakeHost, bundle: Path) -> None:
    (bundle / f"blobs/{sha256(BIG)}").write_bytes(BIG[:-1] + b"?")
    told = deliver(host, bundle)
    assert f"the bundle: blobs/{sha256(BIG)} is damaged; make it anew" in told
    assert not list(host.at("/srv/models").glob("blobs/sha256-*"))


def test_what_came_damaged_is_sent_once_more(host: FakeHost, bundle: Path) -> None:
    folder = host.at("/srv/models/.r1fleet-upload")
    folder.mkdir(parents=True)
    (folder / sha256(BIG)).write_bytes(b"?" * len(BIG))
    assert deliver(host, bundle) is None
    assert host.at(f"/srv/models/blobs/sha256-{sha256(BIG)}").read_bytes() == BIG


def test_a_blob_that_was_corrupted_in_place_is_mended(host: FakeHost, bundle: Path) -> None:
    assert deliver(host, bundle) is None
    blob = host.at(f"/srv/models/blobs/sha256-{sha256(BIG)}")
    blob.write_bytes(b"?" * len(BIG))
    path = f"registry.ollama.ai/library/{NAME.replace(':', '/')}"
    blobs = {f"sha256-{sha256(data)}": len(data) for data in (BIG, SMALL)}
    store = ModelStore("directory", manifests={path: sha256(manifest())}, blobs=blobs)
    probe = bare(models=store, state={"models": {NAME: state_entry(parse(manifest()))}})
    assert deliver(host, bundle, probe, deep_check=True) is None
    assert blob.read_bytes() == BIG


def test_a_model_that_is_not_in_it(host: FakeHost, bundle: Path) -> None:
    wanted = pull.Pull(ModelWanted("deepseek-r1:7b", NOWHERE, "/srv/models", bundle=str(bundle)))
    assert not host.play(pull.start._inner(wanted, bare()))
    assert "it lacks the model deepseek-r1:7b" in str(outcome.of(host.name).failure)


def send_engine(host: FakeHost, bundle: Path) -> str | None:
    outcome.of(host.name).failure = None
    host.play([send.engine("engine", "takes it", str(bundle), "0.32.15", "x86_64")])
    return outcome.of(host.name).failure


def test_the_engine_is_sent_once_and_checked(host: FakeHost, bundle: Path) -> None:
    assert send_engine(host, bundle) is None
    target = host.at(send.ENGINE_DIR)
    assert {path.name for path in target.iterdir()} == {
        "ollama-linux-amd64.tar.zst",
        "sha256sum.txt",
    }
    before = sftp(host).sent_bytes
    assert send_engine(host, bundle) is None
    assert sftp(host).sent_bytes == before
    archive = target / "ollama-linux-amd64.tar.zst"
    archive.write_bytes(b"?" * archive.stat().st_size)
    assert "came damaged; run again" in str(send_engine(host, bundle))
    assert send_engine(host, bundle) is None
    (bundle / ENGINE).write_bytes(b"ENGINE")
    archive.unlink()
    assert f"{ENGINE} is damaged; make it anew" in str(send_engine(host, bundle))


def preview(probe: Probe, bundle: Path, **changes: Any) -> tuple[list[str], str | None]:
    host: Any = SimpleNamespace(name="h", data={}, state=SimpleNamespace(is_executing=False))
    settings = Settings(bundle=str(bundle), mirror_url="http://m:5080", **changes)
    return rollout.preview(HostRun(host, settings, probe))


def test_a_dry_run_names_the_bundle_and_no_network(bundle: Path) -> None:
    steps, refusal = preview(bare("T4"), bundle)
    assert refusal is None
    assert "tools: takes aria2, zstd from the bundle" in steps
    assert "engine: takes Ollama 0.32.15 from the bundle" in steps
    told = "\n".join(steps)
    assert "driver: takes linux-headers" in told
    for word in ("mirror", "curl", "add_components", "downloads"):
        assert word not in told


def test_what_it_lacks_refuses_a_host_before_any_change(bundle: Path) -> None:
    steps, refusal = preview(bare("T4"), bundle, tag="7b", engine_version="0.33.0")
    assert steps == []
    assert refusal is not None
    assert "bundle: it lacks Ollama 0.33.0 for x86_64, the model deepseek-r1:7b; make" in refusal


def test_what_an_interrupted_run_left_is_taken_away(bundle: Path) -> None:
    probe = bare("T4", driver=working("T4"))
    assert not any("had sent" in step for step in preview(probe, bundle)[0])
    left = bare("T4", driver=working("T4"), sent=True)
    assert any("had sent" in step for step in preview(left, bundle)[0])


def test_a_mirror_has_no_use_for_a_bundle() -> None:
    with pytest.raises(SettingsError, match="m: bundle: a mirror has nothing to fetch"):
        join({"m": Settings(bundle="x")}, {"m": "10.0.0.1"}, ["m"])


def test_no_proxy_is_used() -> None:
    proxied = {"https_proxy": "http://p:3128"}
    assert Settings(**proxied).proxies
    assert Settings(**proxied, bundle="x").proxies == {}
