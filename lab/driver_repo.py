"""The lab's signed apt repositories: simulated driver packages under NVIDIA's names, and headers.

The packages are described by driver_packages/packages.yaml. They are built once per content (key
of the cache: the sources, the base URL, the versions, the signing key) and then only copied.
"""

import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from lab import paths
from lab.hardware import KERNELS
from lab.shell import run
from lab.signing import public_key, sign_release
from lab.spec import Release

DISTRIBUTIONS: dict[Release, str] = {"bookworm": "debian12", "trixie": "debian13"}
DRIVER_VERSIONS = ("570.211.01", "580.178.04", "595.45.04")
# As in each release, so that the archive's own driver packages would take them.
DKMS_VERSIONS = {"bookworm": "3.0.10-8+r1lab1", "trixie": "3.2.2-1~deb13u1+r1lab1"}
KEYRING_DEB = "cuda-keyring_1.1-1_all.deb"
KEYRING_PATH = "usr/share/keyrings/cuda-archive-keyring.gpg"

_SOURCES = paths.SOURCE / "driver_packages"
# Fixed, so that the same sources give the same bytes.
_BUILD_TIME = "1790000000"


class DriverRepo(BaseModel):
    """What a host needs to know of the driver repository.

    `base_url` is followed by /<debian12|debian13>/x86_64/; `keyring_sha256` gives, per
    distribution, the SHA-256 of the keyring package there.
    """

    model_config = ConfigDict(frozen=True)

    base_url: str
    keyring_sha256: dict[str, str]


class _Package(BaseModel):
    """One entry of packages.yaml; paths in the package -> names in driver_packages/files."""

    model_config = ConfigDict(extra="forbid")

    description: str
    version: str = "@DEB@"
    architecture: str = "amd64"
    license: str = ""
    depends: str = ""
    conflicts: str = ""
    provides: str = ""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    scripts: dict[str, str] = {}


def build(www: Path, versions: Sequence[str] = DRIVER_VERSIONS) -> DriverRepo:
    """Write both repositories for every distribution below `www`; quick when nothing changed.

    Raises LabError when dpkg-deb, apt-ftparchive or gpg fails.
    """
    cache = paths.cache_dir() / "driver-repo" / _cache_key(versions)
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
            tree = Path(scratch) / "tree"
            _build_tree(tree, versions)
            tree.chmod(0o755)
            tree.rename(cache)
    for part in ("compute", "kernel"):
        shutil.rmtree(www / part, ignore_errors=True)
        shutil.copytree(cache / part, www / part)
    repos = www / "compute/cuda/repos"
    return DriverRepo(
        base_url=_repos_url(),
        keyring_sha256={
            distro: hashlib.sha256(
                (repos / distro / "x86_64" / KEYRING_DEB).read_bytes()
            ).hexdigest()
            for distro in DISTRIBUTIONS.values()
        },
    )


def _repos_url() -> str:
    return f"{paths.artifact_url()}/compute/cuda/repos"


def _cache_key(versions: Sequence[str]) -> str:
    digest = hashlib.sha256(repr((tuple(versions), _repos_url(), KERNELS)).encode())
    digest.update(public_key())
    for source in [Path(__file__), *sorted(_SOURCES.rglob("*"))]:
        if source.is_file():
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _build_tree(tree: Path, versions: Sequence[str]) -> None:
    groups = yaml.safe_load((_SOURCES / "packages.yaml").read_text())
    pool = tree / "pool"
    pool.mkdir(parents=True)
    for version in versions:
        _build_group(groups["driver"], pool, _driver_words(version))
    for release, distro in DISTRIBUTIONS.items():
        driver = tree / "compute/cuda/repos" / distro / "x86_64"
        shutil.copytree(pool, driver)
        words = {"DISTRO": distro, "URL": f"{_repos_url()}/{distro}/x86_64/"}
        _build_group(groups["keyring"], driver, words, {KEYRING_PATH: public_key()})
        _index(driver, origin="NVIDIA", label="NVIDIA CUDA")
        kernel = tree / "kernel" / release
        kernel.mkdir(parents=True)
        words = {"KERNEL": KERNELS[release].release, "DKMS": DKMS_VERSIONS[release]}
        _build_group(groups["kernel"], kernel, words)
        _index(kernel, origin="r1lab", label="r1lab-kernel")
    shutil.rmtree(pool)


def _driver_words(version: str) -> dict[str, str]:
    return {"VERSION": version, "DEB": f"{version}-1", "BRANCH": version.partition(".")[0]}


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _build_group(
    group: dict[str, object],
    target: Path,
    words: dict[str, str],
    extra: dict[str, bytes] | None = None,
) -> None:
    """Build every package of a group into `target`; `extra` files go into each of them."""
    for name, entry in group.items():
        package = _Package.model_validate(entry)
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "root"
            _fill_root(root, _fill(name, words), package, words, extra or {})
            command = ("dpkg-deb", "--root-owner-group", "-Zgzip", "--build")
            environment = os.environ | {"SOURCE_DATE_EPOCH": _BUILD_TIME}
            run(*command, str(root), str(target), env=environment)


def _fill_root(
    root: Path, name: str, package: _Package, words: dict[str, str], extra: dict[str, bytes]
) -> None:
    words = words | {"LICENSE": package.license}
    control = {
        "Package": name,
        "Version": package.version,
        "Architecture": package.architecture,
        "Maintainer": "r1fleet lab <lab@invalid>",
        "Depends": package.depends,
        "Conflicts": package.conflicts,
        "Replaces": package.conflicts,
        "Provides": package.provides,
        "Description": f"{package.description} (simulated by the r1fleet lab)",
    }
    lines = [f"{key}: {_fill(value, words)}\n" for key, value in control.items() if value]
    _write(root / "DEBIAN/control", "".join(lines).encode())
    for script, source in package.scripts.items():
        _write(root / "DEBIAN" / script, _source(source, words))
    for path, source in package.files.items():
        _write(root / _fill(path, words), _source(source, words))
    for path, content in extra.items():
        _write(root / path, content)
    for path, link in package.links.items():
        place = root / _fill(path, words)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(_fill(link, words))


def _source(name: str, words: dict[str, str]) -> bytes:
    return _fill((_SOURCES / "files" / name).read_text(), words).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755 if content.startswith(b"#!") else 0o644)


def _index(folder: Path, origin: str, label: str) -> None:
    """Write Packages, Release and their signatures for a flat repository."""

    in_folder = ("sh", "-c", 'cd "$0" && exec apt-ftparchive "$@"', str(folder))
    packages = run(*in_folder, "packages", ".").encode()
    (folder / "Packages").write_bytes(packages)
    (folder / "Packages.gz").write_bytes(gzip.compress(packages, mtime=0))
    fields = {
        "Origin": origin,
        "Label": label,
        "Architectures": "amd64",
        "Description": "simulated by the r1fleet lab",
    }
    options = [f"-oAPT::FTPArchive::Release::{key}={value}" for key, value in fields.items()]
    (folder / "Release").write_text(run(*in_folder, *options, "release", "."))
    sign_release(folder)
