"""The lab's Caddy: packed and laid out as the release is, and built only where it must be."""

import hashlib
import io
import tarfile
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import caddy
from lab.engine import binaries
from lab.engine.binaries import EngineError

BINARY = b"#!/bin/sh\n" * 100


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R1_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for Go; what it was asked to build."""
    built: list[str] = []

    def run(step: str, argv: list[str], progress: object, **rest: Any) -> None:
        built.append(argv[-1])
        (rest["cwd"] / "bin").mkdir()
        (rest["cwd"] / "bin" / "caddy").write_bytes(BINARY)

    monkeypatch.setattr(binaries, "run", run)
    monkeypatch.setattr(binaries, "go_tool", lambda cache, progress: "go")
    return built


def release(files: dict[str, bytes]) -> Callable[..., io.BytesIO]:
    """Stands in for the release page."""

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        name = url.rsplit("/", 1)[1]
        if name not in files:
            raise urllib.error.URLError("no route")
        return io.BytesIO(files[name])

    return urlopen


def test_built_once_and_laid_out_as_the_release(
    tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", release({}))
    said: list[str] = []
    found = caddy.ensure(said.append)
    assert caddy.ensure(said.append) == found
    assert builds == [f"github.com/caddyserver/caddy/v2/cmd/caddy@v{caddy.VERSION}"]
    assert "no route" in said[0]

    caddy.publish(found, tmp_path / "www")
    folder = tmp_path / f"www/caddy/v{caddy.VERSION}"
    archive = (folder / f"caddy_{caddy.VERSION}_linux_amd64.tar.gz").read_bytes()
    digest, name = (folder / f"caddy_{caddy.VERSION}_checksums.txt").read_text().split()
    assert (digest, name) == (found.sha512, f"caddy_{caddy.VERSION}_linux_amd64.tar.gz")
    assert digest == hashlib.sha512(archive).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        member = packed.getmember("caddy")
        content = packed.extractfile(member)
        assert content
        assert content.read() == BINARY
        assert member.mode == 0o755
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, caddy.CHECKSUMS])


def test_the_official_archive_is_taken_as_it_is(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = caddy.pack(b"the official one")
    digest = hashlib.sha512(archive).hexdigest()
    sums = f"{'0' * 128}  caddy_{caddy.VERSION}_linux_arm64.tar.gz\n{digest}  {caddy.ARCHIVE}\n"
    files = {caddy.ARCHIVE: archive, caddy.CHECKSUMS: sums.encode()}
    monkeypatch.setattr("urllib.request.urlopen", release(files))
    found = caddy.ensure(print)
    assert (found.sha512, found.archive.read_bytes()) == (digest, archive)
    assert builds == []


def test_an_archive_that_is_not_what_its_checksum_says_is_not_kept(
    cache: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = f"{'0' * 128}  {caddy.ARCHIVE}\n"
    files = {caddy.ARCHIVE: caddy.pack(b"other"), caddy.CHECKSUMS: sums.encode()}
    monkeypatch.setattr("urllib.request.urlopen", release(files))
    with pytest.raises(EngineError, match="checksum differs"):
        caddy.ensure(print)
    assert list((cache / "caddy" / "parts").iterdir()) == []
    assert builds == []
