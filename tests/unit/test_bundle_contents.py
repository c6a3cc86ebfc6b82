"""bundle.json: what is read, and what is refused before any host is asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from r1fleet.bundle import contents
from r1fleet.bundle.contents import BundleError, read
from tests.unit.bundles import DRIVER, ENGINE, INDEX, NAME, TOOLS, deb, make, package_set
from tests.unit.registry import BIG, manifest, sha256


@pytest.fixture(autouse=True)
def unread() -> None:
    contents.read.cache_clear()


def test_a_whole_bundle(tmp_path: Path) -> None:
    bundle = read(str(make(tmp_path)))
    engine = bundle.engine("0.32.15", "x86_64")
    assert engine is not None
    assert engine.archive == ENGINE
    assert bundle.engine("0.32.15", "aarch64") is None
    assert bundle.manifest(NAME) == manifest()
    assert bundle.manifest("deepseek-r1:7b") is None


def test_the_smallest_set_that_has_all_names_and_its_index(tmp_path: Path) -> None:
    bundle = read(str(make(tmp_path)))
    small = bundle.package_set("debian 12", "x86_64", ["aria2"])
    assert small is not None
    assert small.names == TOOLS
    text = bundle.index(small)
    assert "Package: libaria2-0\n" in text
    assert not any(f"Package: {name}\n" in text for name in DRIVER)
    assert text.endswith("\n\n")
    whole = bundle.package_set("debian 12", "x86_64", DRIVER)
    assert whole is not None
    assert all(f"Package: {name}\n" in bundle.index(whole) for name in DRIVER)
    assert bundle.package_set("debian 12", "x86_64", ["libaria2-0"]) == small
    assert bundle.package_set("debian 13", "x86_64", ["aria2"]) is None
    assert bundle.package_set("debian 12", "aarch64", ["aria2"]) is None
    assert bundle.package_set("debian 12", "x86_64", ["nginx"]) is None


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read(str(folder))
    (line,) = caught.value.lines
    return line


def test_what_is_no_bundle(tmp_path: Path) -> None:
    assert "is no folder here; make it anew with `r1fleet bundle`" in refusal(tmp_path / "none")
    assert "holds no bundle.json" in refusal(tmp_path)
    (tmp_path / "bundle.json").write_text("<html>")
    assert "bundle.json: " in refusal(tmp_path)


def test_all_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / ENGINE).unlink()
    (tmp_path / f"blobs/{sha256(BIG)}").write_bytes(BIG[:-1])
    line = refusal(tmp_path)
    assert f"{ENGINE} is missing and 1 more" in line


def test_a_manifest_that_was_exchanged(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "models/library/deepseek-r1/14b"
    path.write_bytes(path.read_bytes().replace(b'"mediaType": "m"', b'"mediaType": "n"'))
    assert f"the manifest of {NAME} is not sha256:" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema": 2}, "has schema 2, this r1fleet knows 1"),
        ({"files": {}}, "is named but not listed"),
        ({"packages": [{**package_set("aria2"), "index": "../Packages"}]}, "index"),
        ({"packages": [{**package_set("aria2"), "files": ["/etc/passwd"]}]}, "files"),
        ({"packages": [{**package_set("aria2"), "files": ["a/../b"]}]}, "files"),
        ({"more": 1}, "more"),
    ],
)
def test_what_stands_in_it_is_checked(tmp_path: Path, changes: Any, why: str) -> None:
    assert why in refusal(make(tmp_path, **changes))


def test_every_name_of_a_package_is_a_path_inside(tmp_path: Path) -> None:
    make(tmp_path)
    whole = json.loads((tmp_path / "bundle.json").read_text())
    odd = "packages/debian-12-x86_64/g++-12_12.2.0-14+deb12u1~x_amd64.deb"
    whole["files"][odd] = whole["files"][deb("aria2")]
    assert odd in contents.parse_contents(json.dumps(whole)).files
    assert INDEX in whole["files"]
