"""A bundle made from a registry and an archive on 127.0.0.1."""

import base64
import functools
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from r1fleet.bundle import contents, fetch
from r1fleet.bundle.apt import stanza
from r1fleet.bundle.fetch import PackError
from r1fleet.bundle.packing import Maker
from r1fleet.model.manifest import parse
from tests.unit.bundles import NAME, TOOLS
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


def test_a_registry_that_does_not_answer(tmp_path: Path, registry: Registry, releases: str) -> None:
    models = {NAME: {"registry_url": "http://127.0.0.1:9", "pinned": None}}
    with pytest.raises(PackError, match="refused>; check registry_url and its login, or name"):
        make(tmp_path / "out", host(registry, releases, models=models))


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


def add_package(repository: Path, name: str, depends: str = "", version: str = "1:1.0") -> None:
    tree = repository / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    needs = f"Depends: {depends}\n" if depends else ""
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: t <t@x>\n{needs}"
        f"Description: {name}\n"
    )
    package = repository / f"{name}_{version.removeprefix('1:')}_amd64.deb"
    subprocess.run(["dpkg-deb", "-b", tree, package], check=True, capture_output=True)
    shutil.rmtree(tree)
    with (repository / "Packages").open("a") as index:
        index.write(stanza(package, package.name) + "\n")


def sources(url: str) -> dict[str, str]:
    """As a host tells them."""
    packed = io.BytesIO()
    text = f"deb-src {url} ./\ndeb [trusted=yes] {url} ./\n".encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        about = tarfile.TarInfo("etc/apt/sources.list")
        about.size = len(text)
        tar.addfile(about, io.BytesIO(text))
    proxies = 'Acquire::http::Proxy "DIRECT";'
    return {"tar": base64.b64encode(packed.getvalue()).decode(), "proxies": proxies}


def test_packages_come_with_all_that_they_need(
    tmp_path: Path, registry: Registry, releases: str
) -> None:
    repository = tmp_path / "releases"
    for name in TOOLS:
        add_package(repository, name, depends="libc6 (>= 1:1)")
    add_package(repository, "libc6")
    add_package(repository, "nvidia-driver-cuda", depends="curl")
    add_package(repository, "unwanted")
    driver = {"names": ["nvidia-driver-cuda"], "pins": [], "components": []}
    plain = host(registry, releases, apt=sources(releases))
    carded = {**plain, "driver": {**driver, "keyring_url": None, "keyring_sha256": None}}
    bundle = make(tmp_path / "out", plain, carded, plain)
    small, large = bundle.contents.packages
    assert small.names == TOOLS
    names = [file.rpartition("/")[2].partition("_")[0] for file in small.files]
    assert names == ["aria2", "curl", "libc6", "tar", "zstd"]
    assert set(large.files) - set(small.files) == {
        "packages/debian-12-x86_64/nvidia-driver-cuda_1.0_amd64.deb"
    }
    assert "Version: 1:1.0\n" in bundle.index(small)
    assert "nvidia" not in bundle.index(small)
    (repository / "zstd_1.0_amd64.deb").unlink()  # it is here, and not fetched again
    add_package(repository, "curl", version="1:1.1")
    again = make(tmp_path / "out", plain)
    (only,) = again.contents.packages
    assert [file.rpartition("/")[2] for file in only.files] == [
        *("aria2_1.0_amd64.deb", "curl_1.1_amd64.deb", "libc6_1.0_amd64.deb"),
        *("tar_1.0_amd64.deb", "zstd_1.0_amd64.deb"),
    ]
    folder = tmp_path / "out" / "packages" / "debian-12-x86_64"
    assert {path.name for path in folder.glob("*.deb")} == {
        file.rpartition("/")[2] for file in only.files
    }
    with pytest.raises(PackError, match="packages: apt-get install: E: Unable to locate"):
        make(tmp_path / "out", {**carded, "driver": {**carded["driver"], "names": ["none"]}})


def test_caddy_is_packed_by_its_sha512(tmp_path: Path, registry: Registry, releases: str) -> None:
    file, digest = "caddy_1_linux_amd64.tar.gz", hashlib.sha512(ARCHIVE).hexdigest()
    (tmp_path / "releases" / file).write_bytes(ARCHIVE)
    (tmp_path / "releases/sums.txt").write_text(f"{'0' * 128}  other\n{digest}  {file}\n")
    caddy = {"version": "1", "url": f"{releases}/{file}", "sums_url": f"{releases}/sums.txt"}
    for pinned in (None, digest):
        one = host(registry, releases, gateway={**caddy, "sha512": pinned})
        bundle = make(tmp_path / "out", one, host(registry, releases, gateway=None))
        found = bundle.gateway("1", "x86_64")
        assert found
        assert bundle.path(found.archive).read_bytes() == ARCHIVE
        assert bundle.path(found.sums).read_text() == f"{digest}  {file}\n"
        assert bundle.gateway("2", "x86_64") is None
    alone = make(tmp_path / "alone", {"arch": "x86_64", "gateway": {**caddy, "sha512": digest}})
    assert alone.gateway("1", "x86_64")
    assert alone.contents.engines == ()
    wrong = host(registry, releases, gateway={**caddy, "sha512": "1" * 128})
    with pytest.raises(PackError, match="checksum is"):
        make(tmp_path / "other", wrong)
    make(tmp_path / "out", host(registry, releases, gateway=None))
    assert list((tmp_path / "out/gateway").iterdir()) == []
    assert "gateways" not in json.loads((tmp_path / "out/bundle.json").read_text())
