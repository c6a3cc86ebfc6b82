"""The packages of a bundle, resolved and downloaded by this machine's apt from a host's sources.

apt works in a folder of its own, with the host's sources, keys and proxies, and as if nothing were
installed: what it finds is enough for any host of that release, and versions and checksums are
apt's own. Nothing of this machine's packages is touched, and no hook of the host's is run.
"""

import base64
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyinfra.api import Host

from r1fleet import elevate
from r1fleet.bundle import fetch
from r1fleet.bundle.contents import field
from r1fleet.bundle.fetch import PackError
from r1fleet.bundle.needs import DriverPackages

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
LIMIT_S = 3600

CONFIG = """\
Dir "{root}";
Dir::State::status "{root}/status";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
quiet "2";
"""

_SOURCES = """
apt-config dump Acquire 2>/dev/null | grep -E '^Acquire::https?::Proxy(::[A-Za-z0-9.-]+)? '
cd / && echo "tar $(tar -chzf - etc/apt/sources.list etc/apt/sources.list.d \\
  etc/apt/trusted.gpg etc/apt/trusted.gpg.d etc/apt/keyrings usr/share/keyrings 2>/dev/null |
  base64 -w0)"
"""


# They become lines of this machine's apt configuration, which can also name commands to run.
_PROXY = re.compile(
    r'Acquire::https?::Proxy(::[A-Za-z0-9.-]+)? "[A-Za-z0-9.:/@%_~+\[\]-]*";', re.ASCII
)


def sources_of(host: Host) -> dict[str, str]:
    """A host's apt sources and keys (`tar`, in base64) and its proxies (`proxies`).

    Raises what elevate.answer does.
    """
    return read_sources(elevate.answer(host, _SOURCES, timeout_s=120).splitlines())


def read_sources(output: list[str]) -> dict[str, str]:
    """The same, of what the host printed."""
    packed = [line.removeprefix("tar ") for line in output if line.startswith("tar ")]
    proxies = [line for line in output if _PROXY.fullmatch(line)]
    return {"tar": "".join(packed), "proxies": "\n".join(proxies)}


class Apt:
    """apt on this machine, in a folder, for the release and architecture of a host."""

    def __init__(self, root: Path, arch: str, sources: Mapping[str, str]) -> None:
        """Raises PackError where this machine has no apt."""
        missing = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
        if missing:
            why = f"this machine has no {' and no '.join(missing)}"
            raise PackError(
                f"packages: {why}; run it on a Debian or Ubuntu, or in a container of one"
            )
        self.root = root
        for folder in ("etc/apt/preferences.d", "var/lib/apt/lists/partial"):
            (root / folder).mkdir(parents=True)
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        (root / "status").touch()
        packed = io.BytesIO(base64.b64decode(sources["tar"]))
        with tarfile.open(fileobj=packed, mode="r:gz") as tar:
            tar.extractall(root, filter="data")
        self.config = root / "apt.conf"
        config = CONFIG.format(root=root, arch=ARCH[arch]) + sources["proxies"] + "\n"
        self.config.write_text(config)

    def add(self, driver: DriverPackages | None) -> None:
        """The driver's repository and what pins its branch. Raises PackError."""
        if driver and driver.keyring_url:
            keyring = self.root / "keyring.deb"
            fetch.whole(driver.keyring_url, keyring, driver.keyring_sha256)
            self._unpack(keyring)
        components = driver.components if driver else ()
        for path in self._source_files():
            path.write_text(own_sources(path.read_text(), str(self.root), components))
        self._run("apt-get", "update")
        if driver and driver.pins:
            self._run("apt-get", "download", *driver.pins)
            for path in self.root.glob("*.deb"):
                self._unpack(path)

    def offer(self, folder: Path, entries: Iterable[str]) -> None:
        """Packages of a former bundle, by their entries of its index: apt takes those that are
        still right, by their sums, and fetches the others."""
        for entry in entries:
            words = [field(entry, key) for key in ("Package", "Version", "Architecture")]
            name = "_".join(words).replace(":", "%3a") + ".deb"
            there = folder / field(entry, "Filename")
            if there.is_file():
                shutil.copy(there, self.root / "var/cache/apt/archives" / name)

    def download(self, names: Iterable[str]) -> list[Path]:
        """The packages with all that they depend on. Raises PackError."""
        self._run("apt-get", "install", "--download-only", "--no-install-recommends", *names)
        wanted = self._wanted(names)
        archives = (self.root / "var/cache/apt/archives").glob("*.deb")
        return sorted(path for path in archives if path.name in wanted)

    def _wanted(self, names: Iterable[str]) -> set[str]:
        """The file names of what apt has now for these packages: what was offered may be more."""
        told = self._run("apt-get", "install", "--simulate", "--no-install-recommends", *names)
        found = re.findall(r"^Inst (\S+) (?:\[[^\]]*\] )?\((\S+) .*\[(\w+)\]", told, re.MULTILINE)
        return {"_".join(words).replace(":", "%3a") + ".deb" for words in found}

    def _source_files(self) -> Iterable[Path]:
        listed = self.root / "etc/apt/sources.list"
        folder = self.root / "etc/apt/sources.list.d"
        return [
            path
            for path in (listed, *folder.glob("*.list"), *folder.glob("*.sources"))
            if path.is_file()
        ]

    def _unpack(self, package: Path) -> None:
        self._run("dpkg-deb", "-x", str(package), str(self.root))

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.root,
            env=os.environ | {"APT_CONFIG": str(self.config), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            lines = [
                line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb:"))
            ]
            why = lines[0] if lines else done.stderr.strip().rpartition("\n")[2]
            raise PackError(f"packages: {' '.join(words[:2])}: {why}; check the host's apt sources")
        return done.stdout


def own_sources(text: str, root: str, components: Iterable[str]) -> str:
    """A file of apt sources for a folder of its own: keys from there, no source packages, and
    further components where the archive's `main` stands."""
    lines = (line for line in text.splitlines() if not line.startswith("deb-src"))
    return "".join(f"{_own_line(line, root, ' '.join(components))}\n" for line in lines)


def _own_line(line: str, root: str, components: str) -> str:
    word = line.lower()
    if word.startswith(("signed-by:", "deb [")):
        line = re.sub(r"(?<=[=: ,])/(?=(usr|etc)/)", f"{root}/", line)
    if word.startswith("types:"):
        return line.replace(" deb-src", "")
    has_main = word.startswith(("deb ", "components:")) and re.search(r"\smain\b", word)
    return f"{line.rstrip()} {components}" if components and has_main else line


def stanza(package: Path, name: str) -> str:
    """The entry of a Packages index for a package; `name` is its file's."""
    done = subprocess.run(
        ["dpkg-deb", "--field", package], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PackError(f"packages: {package.name}: {done.stderr.strip()}; run again")
    size, digest = package.stat().st_size, fetch.sha256(package)
    return f"{done.stdout.rstrip()}\nFilename: {name}\nSize: {size}\nSHA256: {digest}\n"


def plain_name(name: str) -> str:
    """A package's file name without what apt writes for the colon of an epoch."""
    return re.sub(r"_\d+%3a", "_", name)
