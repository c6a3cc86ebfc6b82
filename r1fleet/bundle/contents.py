"""What a bundle holds, by its bundle.json: reading, checking, finding. No host is asked.

+ engine/vVERSION/    archives as released, with a sha256sum.txt of what is here
+ gateway/vVERSION/   Caddy's archives, with the sums of what is here
+ models/MODEL/TAG    manifests as served; blobs/HEX, each once
+ packages/RELEASE/   .deb files with a Packages index: a flat apt repository
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r1fleet.model.manifest import ManifestError, ModelManifest, parse

FILE = "bundle.json"
SCHEMA = 1
AGAIN = "make it anew with `r1fleet bundle`"
Inside = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+~:-]*(/[A-Za-z0-9_][A-Za-z0-9._+~:-]*)*$")
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundleError(ValueError):
    """The bundle cannot be used; a line for each fault, in `lines`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Packed(_Row):
    """One file; `source` is where it came from."""

    size_bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256
    source: str


class Engine(_Row):
    """The archives of one version for one architecture as `uname -m` names it."""

    version: str
    arch: str
    archive: Inside
    rocm: Inside | None = None
    sums: Inside


class Gateway(_Row):
    """Caddy's archive of one version for one architecture."""

    version: str
    arch: str
    archive: Inside
    sums: Inside


class Model(_Row):
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    manifest: Inside
    blobs: tuple[Sha256, ...]


class PackageSet(_Row):
    """Packages by name with all that they depend on, as apt resolved them for a release."""

    release: str  # "debian 12"
    arch: str
    names: tuple[str, ...]
    index: Inside
    files: tuple[Inside, ...]

    @property
    def has(self) -> set[str]:
        """Every package of it: what a package there needs is there, too."""
        return {*self.names, *(name.rpartition("/")[2].partition("_")[0] for name in self.files)}


class Contents(_Row):
    """bundle.json."""

    schema_: Literal[1] = Field(alias="schema")
    at: str
    engines: tuple[Engine, ...]
    gateways: tuple[Gateway, ...] = ()
    models: Mapping[str, Model]
    packages: tuple[PackageSet, ...]
    files: Mapping[Inside, Packed]


class Bundle:
    """A bundle on this machine."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder, self.contents = folder, contents

    def path(self, name: str) -> Path:
        return self.folder / name

    def engine(self, version: str, arch: str) -> Engine | None:
        """The archives of a version for an architecture."""
        rows = self.contents.engines
        return next((row for row in rows if (row.version, row.arch) == (version, arch)), None)

    def gateway(self, version: str, arch: str) -> Gateway | None:
        """Caddy of a version for an architecture."""
        rows = self.contents.gateways
        return next((row for row in rows if (row.version, row.arch) == (version, arch)), None)

    def manifest(self, name: str) -> bytes | None:
        """A model's manifest as it was served."""
        row = self.contents.models.get(name)
        return self.path(row.manifest).read_bytes() if row else None

    def package_set(self, release: str, arch: str, names: Iterable[str]) -> PackageSet | None:
        """The smallest set that holds all of these packages, ready for that release."""
        wanted = set(names)
        fitting = [
            row
            for row in self.contents.packages
            if (row.release, row.arch) == (release, arch) and wanted <= row.has
        ]
        return min(fitting, key=lambda row: len(row.files), default=None)

    def index(self, found: PackageSet) -> str:
        """The Packages index of a set: of the release's, the stanzas of its files."""
        text = self.path(found.index).read_text(encoding="utf-8")
        kept = {name.rpartition("/")[2] for name in found.files}
        return "".join(
            f"{stanza}\n\n" for stanza in stanzas(text) if field(stanza, "Filename") in kept
        )


def stanzas(index: str) -> Iterator[str]:
    """The entries of a Packages index."""
    yield from (part.strip("\n") for part in index.split("\n\n") if part.strip())


def field(stanza: str, name: str) -> str:
    """A one-line field of an entry, "" where there is none."""
    found = re.search(rf"^{name}: *(\S.*)$", stanza, re.MULTILINE)
    return found[1].strip() if found else ""


def blob(hex_digest: str) -> str:
    """Where a blob lies in a bundle."""
    return f"blobs/{hex_digest}"


@cache
def read(place: str) -> Bundle:
    """The bundle at a path of this machine; every file is there with its size. Read once in a run.

    Raises BundleError.
    """
    folder = Path(place).expanduser()
    try:
        contents = parse_contents((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        why = "holds no bundle.json" if folder.is_dir() else "is no folder here"
        raise BundleError([f"bundle: {place} {why}; {AGAIN}"]) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BundleError([f"bundle: {place}/{FILE}: {error}"]) from None
    if wrong := list(_damaged(folder, contents)):
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        raise BundleError([f"bundle: {place} is damaged: {wrong[0]}{more}; {AGAIN}"])
    return Bundle(folder, contents)


def parse_contents(text: str) -> Contents:
    """Read a bundle.json's text. Raises ValueError with one line."""
    schema = re.search(r'"schema"\s*:\s*(\d+)', text)
    if schema and int(schema[1]) > SCHEMA:
        raise ValueError(
            f"it has schema {schema[1]}, this r1fleet knows {SCHEMA}: take a newer one"
        )
    try:
        found = Contents.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{place or 'the file'}: {fault['msg']}; {AGAIN}") from None
    if unknown := sorted(set(_named(found)) - set(found.files)):
        raise ValueError(f"{unknown[0]} is named but not listed; {AGAIN}")
    return found


def _named(contents: Contents) -> Iterator[str]:
    for engine in contents.engines:
        yield from filter(None, (engine.archive, engine.rocm, engine.sums))
    for gateway in contents.gateways:
        yield from (gateway.archive, gateway.sums)
    for model in contents.models.values():
        yield model.manifest
        yield from map(blob, model.blobs)
    for packages in contents.packages:
        yield from (packages.index, *packages.files)


def _damaged(folder: Path, contents: Contents) -> Iterator[str]:
    """Files that are missing or cut, and manifests that are not what they should be: what can be
    told without reading everything. Sums are checked by the hosts, of what is sent."""
    for name, packed in contents.files.items():
        try:
            size = os.stat(folder / name).st_size  # noqa: PTH116  thousands of files
        except OSError:
            yield f"{name} is missing"
            continue
        if size != packed.size_bytes:
            yield f"{name} has {size} bytes, not {packed.size_bytes}"
    for name, model in contents.models.items():
        if (found := _manifest(folder / model.manifest)) is None or found.digest != model.digest:
            yield f"the manifest of {name} is not {model.digest}"
        elif {one.hex for one in found.blobs} != set(model.blobs):
            yield f"{name} has other blobs than its manifest says"


def _manifest(path: Path) -> ModelManifest | None:
    try:
        return parse(path.read_bytes())
    except (OSError, ManifestError):
        return None
