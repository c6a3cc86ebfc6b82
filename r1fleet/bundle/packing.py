"""Making a bundle: what the hosts need, brought to this machine and listed in bundle.json."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paramiko import SSHException

from r1fleet.bundle import fetch, needs
from r1fleet.bundle.apt import Apt, plain_name, sources_of, stanza
from r1fleet.bundle.contents import FILE, SCHEMA, blob, stanzas
from r1fleet.bundle.contents import field as field_of
from r1fleet.bundle.fetch import PackError
from r1fleet.bundle.needs import DriverPackages
from r1fleet.driver.foreign import Stop
from r1fleet.elevate import NotBegun
from r1fleet.engine.install import TOOLS
from r1fleet.engine.wanted import ARCHIVE_ARCH
from r1fleet.fleet import HostRun
from r1fleet.lock_find import FindError, manifest, named
from r1fleet.model.manifest import ManifestError, ModelWanted, human, parse
from r1fleet.settings_sources import authorization

Say = Callable[[str], None]


def needs_of(run: HostRun) -> dict[str, Any]:
    """What one host needs, as data; {} for one that cannot be looked at or needs nothing."""
    probe, settings = run.probe, run.settings
    if probe is None:
        return {}
    caddy = needs.gateway(settings, probe, balances=run.balances)
    if not settings.serve:
        return {"arch": probe.arch, "gateway": asdict(caddy)} if caddy else {}
    if probe.arch not in ARCHIVE_ARCH:
        return {"left_out": [f"all: there is no Ollama archive for {probe.arch}"]}
    archive, driver = needs.archive(settings, probe), needs.driver(settings, probe)
    wants = needs.models(settings, probe)
    left_out = [] if wants else ["models: none fits (see `r1fleet plan`)"]
    left_out += [
        f"{want.name}: its file is named in model_sources" for want in wants if want.source
    ]
    if isinstance(driver, Stop):
        left_out.append(f"driver packages: {driver.why}")
        driver = None
    found: dict[str, Any] = {
        "arch": probe.arch,
        "release": needs.release(probe),
        "engine": {key: getattr(archive, key) for key in ("version", "url", "sha256", "rocm_url")},
        "gateway": asdict(caddy) if caddy else None,
        "models": {
            want.name: {"registry_url": want.registry_url, "pinned": want.digest}
            for want in wants
            if want.source is None
        },
        "login": [settings.registry_login_file, settings.registry_login_command],
        "driver": asdict(driver) if driver else None,
        "left_out": left_out,
    }
    if "apt-get" in probe.tools:
        try:
            found["apt"] = sources_of(run.host)
        except (NotBegun, OSError, EOFError, SSHException) as error:
            left_out.append(f"packages: its apt sources could not be read: {error}")
    else:
        left_out.append("packages: only those of apt are packed")
    return found


@dataclass
class Maker:
    """A bundle in the making."""

    folder: Path
    say: Say
    registry_url: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    engines: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    gateways: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: list[dict[str, Any]] = field(default_factory=list)

    def make(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring everything and write bundle.json last: without it the folder is no bundle.

        Raises PackError or FindError.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FILE).unlink(missing_ok=True)
        for host in hosts.values():
            if gateway := host.get("gateway"):
                self._gateway(host["arch"], gateway)
            if not (engine := host.get("engine")):
                continue  # a gateway before the others
            self._engine(host["arch"], engine)
            # A login is for the registry of the settings alone.
            login = None if self.registry_url else authorization(*host["login"])
            for name, model in host["models"].items():
                self._model(name, model, login)
        self._packages([host for host in hosts.values() if host.get("apt")])
        self._sums()
        self._drop_others()
        whole = {
            "schema": SCHEMA,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "engines": list(self.engines.values()),
            # Where there are none, an older r1fleet can read it.
            **({"gateways": list(self.gateways.values())} if self.gateways else {}),
            "models": self.models,
            "packages": self.packages,
            "files": dict(sorted(self.files.items())),
        }
        fresh = self.folder / f"{FILE}.new"
        fresh.write_text(json.dumps(whole, indent=1) + "\n")
        fresh.replace(self.folder / FILE)

    @property
    def size_bytes(self) -> int:
        return sum(row["size_bytes"] for row in self.files.values())

    def _list(self, name: str, source: str, digest: str | None = None) -> None:
        path = self.folder / name
        found = digest or fetch.sha256(path)
        self.files[name] = {"size_bytes": path.stat().st_size, "sha256": found, "source": source}

    def _engine(self, arch: str, engine: Mapping[str, Any]) -> None:
        row = self.engines.setdefault(
            (engine["version"], arch), {"version": engine["version"], "arch": arch}
        )
        for key, url in (("archive", engine["url"]), ("rocm", engine["rocm_url"])):
            if url is None or key in row:
                continue
            file = url.rpartition("/")[2]
            name = f"engine/v{engine['version']}/{file}"
            digest = (engine["sha256"] if key == "archive" else None) or _sum_of(url, file)
            self.say(f"Ollama {engine['version']}: {url}")
            fetch.whole(url, self.folder / name, digest)
            self._list(name, url, digest)
            row[key] = name
        row["sums"] = f"engine/v{engine['version']}/sha256sum.txt"

    def _gateway(self, arch: str, gateway: Mapping[str, Any]) -> None:
        version, url, sums_url = gateway["version"], gateway["url"], gateway["sums_url"]
        if (version, arch) in self.gateways:
            return
        name = url.rpartition("/")[2]
        home, sums = f"gateway/v{version}", sums_url.rpartition("/")[2]
        line = gateway["sha512"] or fetch.sum_of(sums_url, name, "gateway_sha512")
        self.say(f"Caddy {version}: {url}")
        fetch.whole(url, self.folder / home / name, line)
        self._list(f"{home}/{name}", url)
        row = {"version": version, "arch": arch}
        row |= {"archive": f"{home}/{name}", "sums": f"{home}/{arch}-{sums}"}
        (self.folder / row["sums"]).write_text(f"{line}  {name}\n")
        self._list(row["sums"], "made here")
        self.gateways[version, arch] = row

    def _sums(self) -> None:
        """The sums of a version's archives, in the form of its release."""
        for name in {row["sums"] for row in self.engines.values()}:
            home = name.rpartition("/")[0]
            lines = [
                f"{row['sha256']}  ./{file.rpartition('/')[2]}\n"
                for file, row in sorted(self.files.items())
                if file.startswith(f"{home}/")
            ]
            (self.folder / name).write_text("".join(lines))
            self._list(name, "made here")

    def _model(self, name: str, model: Mapping[str, Any], login: str | None) -> None:
        want = named(name, self.registry_url or model["registry_url"])
        if name in self.models:
            if model["pinned"] not in (None, self.models[name]["digest"]):
                raise PackError(f"{name}: hosts pin different digests; make a bundle for each")
            return
        raw = _served(want, login)
        try:
            found = parse(raw)
            if model["pinned"] and found.digest != model["pinned"]:
                # The tag has moved; the registry may still have what is pinned.
                raw = _served(want, login, model["pinned"])
                found = parse(raw)
        except ManifestError as error:
            raise PackError(f"{name}: {want.registry_url} served no manifest, {error}") from None
        if model["pinned"] not in (None, found.digest):
            why = f"the registry has {found.digest}, pinned is {model['pinned']}"
            raise PackError(f"{name}: {why}; run `r1fleet lock` if the new one is wanted")
        self.say(f"{name} {found.digest[:19]}, {human(found.size_bytes)}")
        for one in found.blobs:
            url = f"{want.repository_url}/blobs/{one.digest}"
            fetch.whole(url, self.folder / blob(one.hex), one.hex, login)
            self._list(blob(one.hex), url, one.hex)
        place = f"models/{want.path}/{want.tag}"
        (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / place).write_bytes(raw)
        self._list(place, f"{want.repository_url}/manifests/{want.tag}")
        self.models[name] = {
            "digest": found.digest,
            "manifest": place,
            "blobs": [one.hex for one in found.blobs],
        }

    def _packages(self, hosts: Iterable[Mapping[str, Any]]) -> None:
        """Resolved once for each set of packages of a release, by the sources of its first host."""
        done = set()
        for host in hosts:
            driver = _driver(host["driver"])
            names = tuple(
                dict.fromkeys([*sorted(TOOLS.values()), *(driver.names if driver else ())])
            )
            key = (host["release"], host["arch"], names)
            if key not in done:
                done.add(key)
                self._package_set(host, driver, names)
        for index in {row["index"] for row in self.packages}:
            self._list(index, "made here")

    def _package_set(
        self, host: Mapping[str, Any], driver: DriverPackages | None, names: tuple[str, ...]
    ) -> None:
        release, arch = host["release"], host["arch"]
        self.say(f"packages for {release} ({arch}): {', '.join(names)}")
        home = f"packages/{release.replace(' ', '-')}-{arch}"
        (self.folder / home).mkdir(parents=True, exist_ok=True)
        index = self.folder / home / "Packages"
        before = list(stanzas(index.read_text())) if index.exists() else []
        first = not any(row["index"] == f"{home}/Packages" for row in self.packages)
        known = {} if first else {field_of(part, "Filename"): part for part in before}
        files = []
        with tempfile.TemporaryDirectory(prefix="r1fleet-bundle-") as scratch:
            apt = Apt(Path(scratch), arch, host["apt"])
            apt.add(driver)
            apt.offer(self.folder / home, before)
            for package in apt.download(names):
                name = plain_name(package.name)
                files.append(f"{home}/{name}")
                if name not in known:
                    shutil.move(package, self.folder / home / name)
                    known[name] = stanza(self.folder / home / name, name)
                    digest = field_of(known[name], "SHA256")
                    self._list(f"{home}/{name}", f"apt, {release}", digest)
        index.write_text("".join(f"{known[name].strip()}\n\n" for name in sorted(known)))
        row = {"release": release, "arch": arch, "names": names, "files": files}
        self.packages.append({**row, "index": f"{home}/Packages"})

    def _drop_others(self) -> None:
        """What a former bundle in this folder had and this one has not."""
        for part in ("engine", "gateway", "models", "blobs", "packages"):
            for path in sorted((self.folder / part).rglob("*"), reverse=True):
                if path.is_dir():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif str(path.relative_to(self.folder)) not in self.files:
                    path.unlink()


def _sum_of(url: str, file: str) -> str:
    """The SHA-256 of a release's archive by the sha256sum.txt beside it."""
    return fetch.sum_of(f"{url.rpartition('/')[0]}/sha256sum.txt", file, "engine_sha256")


def _served(want: ModelWanted, login: str | None, digest: str | None = None) -> bytes:
    try:
        return manifest(want, login, digest)
    except FindError as error:
        do = "check registry_url and its login, or name another by --registry-url"
        raise PackError(f"{str(error).rpartition('; ')[0]}; {do}") from None


def _driver(data: Mapping[str, Any] | None) -> DriverPackages | None:
    if data is None:
        return None
    lists = ("names", "pins", "components")
    return DriverPackages(**{**data, **{key: tuple(data[key]) for key in lists}})


__all__ = ["FindError", "Maker", "PackError", "needs_of"]
