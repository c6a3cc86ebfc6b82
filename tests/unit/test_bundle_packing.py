"""A bundle made from a registry and an archive on 127.0.0.1."""

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from r1fleet.bundle import contents, fetch
from r1fleet.bundle.fetch import PackError
from r1fleet.bundle.packing import Maker
from r1fleet.model.manifest import parse
from tests.unit.bundles import NAME
from tests.unit.registry import BIG, SMALL, Registry, serve, sha256

ARCHIVE = b"an archive"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01, 0.01))
    with serve() as running:
        yield running


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "releases"
    folder.mkdir()
    (folder / "ollama-linux-amd64.tar.zst").write_bytes(ARCHIVE)
    (folder / "sha256sum.txt").write_text(f"{sha256(ARCHIVE)}  ./ollama-linux-amd64.tar.zst\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def host(registry: Registry, releases: str, **changes: Any) -> dict[str, Any]:
    engine = {"version": "0.32.15", "sha256": None, "rocm_url": None}
    return {
        "arch": "x86_64",
        "release": "debian 12",
        "engine": {**engine, "url": f"{releases}/ollama-linux-amd64.tar.zst"},
        "models": {NAME: {"registry_url": registry.url, "pinned": None}},
        "login": [None, None],
        "driver": None,
        "left_out": [],
        **changes,
    }


def make(out: Path, *hosts: dict[str, Any]) -> contents.Bundle:
    Maker(out, lambda text: None).make({f"h{n}": one for n, one in enumerate(hosts)})
    contents.read.cache_clear()
    return contents.read(str(out))


def test_what_two_hosts_share_is_packed_once(
    tmp_path: Path, registry: Registry, releases: str
) -> None:
    out = tmp_path / "out"
    bundle = make(out, host(registry, releases), host(registry, releases))
    assert bundle.manifest(NAME) == registry.manifest
    assert (out / f"blobs/{sha256(BIG)}").read_bytes() == BIG
    engine = bundle.engine("0.32.15", "x86_64")
    assert engine is not None
    assert bundle.path(engine.archive).read_bytes() == ARCHIVE
    sums = bundle.path(engine.sums).read_text()
    assert sums == f"{sha256(ARCHIVE)}  ./ollama-linux-amd64.tar.zst\n"
    assert sum(sha256(BIG) in path for path, _ in registry.requests) == 2  # one, redirected


def test_made_again_it_fetches_only_what_is_new_and_drops_the_rest(
    tmp_path: Path, registry: Registry, releases: str
) -> None:
    out = tmp_path / "out"
    make(out, host(registry, releases))
    (out / "blobs" / ("a" * 64)).write_text("of a former bundle")
    (out / f"blobs/{sha256(SMALL)}").write_bytes(b"damaged")
    registry.requests.clear()
    make(out, host(registry, releases))
    asked = {path.rpartition("/")[2] for path, _ in registry.requests}
    assert asked == {"14b", f"sha256:{sha256(SMALL)}"}
    assert not (out / "blobs" / ("a" * 64)).exists()


def test_a_line_that_drops_costs_only_the_rest(
    tmp_path: Path, registry: Registry, releases: str
) -> None:
    registry.break_after = 2_000_000
    bundle = make(tmp_path / "out", host(registry, releases))
    assert bundle.path(f"blobs/{sha256(BIG)}").read_bytes() == BIG
    ranges = [wanted for path, wanted in registry.requests if "/elsewhere/" in path and wanted]
    assert [wanted.startswith("bytes=") for wanted in ranges] == [True, True]


def test_the_login_goes_to_the_registry_alone(
    tmp_path: Path, registry: Registry, releases: str
) -> None:
    registry.login, registry.gives_tokens = "Basic bWU6c2VjcmV0", True
    file = tmp_path / "login"
    file.write_text("me:secret\n")
    make(tmp_path / "out", host(registry, releases, login=[str(file), None]))
    assert registry.elsewhere_logins == {None}
    assert "secret" not in (tmp_path / "out" / "bundle.json").read_text()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": {NAME: {"pinned": "sha256:" + "a" * 64}}}, "pinned is sha256:aaa"),
        ({"engine": {"sha256": "b" * 64}}, "expected bbb"),
    ],
)
def test_what_is_not_as_it_should_be_makes_no_bundle(
    tmp_path: Path, registry: Registry, releases: str, changes: Any, why: str
) -> None:
    out, wanted = tmp_path / "out", host(registry, releases)
    make(out, wanted)
    (out / "engine/v0.32.15/ollama-linux-amd64.tar.zst").unlink()
    for key, value in changes.items():
        for inner, new in value.items():
            old = wanted[key][inner]
            wanted[key][inner] = {**old, **new} if isinstance(new, dict) else new
    with pytest.raises(PackError, match=why):
        make(out, wanted)
    assert not (out / "bundle.json").exists()


def test_a_pinned_digest_behind_a_moved_tag(
    tmp_path: Path, registry: Registry, releases: str
) -> None:
    before = registry.manifest
    registry.manifest = json.dumps({**json.loads(before), "moved": True}).encode()
    pinned = parse(before).digest
    registry.by_digest = {pinned: before}
    models = {NAME: {"registry_url": registry.url, "pinned": pinned}}
    bundle = make(tmp_path / "out", host(registry, releases, models=models))
    assert bundle.contents.models[NAME].digest == pinned
