"""The lab's services on the bridge address: model registry, artifacts, package proxy.

nginx (5000 registry, 5001 the same with redirects, 8080 artifacts, 3142 package proxy) and
docker-registry run as processes of the lab with their own configuration below `services/`; the
system's units are left alone. What is slow to fetch (packages, models) is kept in the cache folder.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lab import caddy, driver_repo, paths
from lab.caddy import Caddy
from lab.driver_repo import DriverRepo
from lab.shell import LabError, run

if TYPE_CHECKING:
    from lab.engine import EngineDir

FAULTS = ("registry-500",)
ARCHIVE = "ollama-linux-amd64.tar.zst"
_START_TIMEOUT_S = 20
_STOP_TIMEOUT_S = 10


def www_dir() -> Path:
    """What the artifact server serves."""
    return paths.lab_dir() / "www"


def start(engine: "EngineDir", gateway: Caddy) -> DriverRepo:
    """Publish engine, Caddy and the apt repositories and start what is not running.

    The bridge must be up. Raises LabError with the log's last line when a service does not come up.
    """
    _publish_engine(engine)
    caddy.publish(gateway, www_dir())
    repo = driver_repo.build(www_dir())
    home = _home()
    (home / "faults").mkdir(parents=True, exist_ok=True)
    (home / "temp").mkdir(exist_ok=True)
    for folder in ("apt", "apt-temp", "registry"):
        (paths.cache_dir() / folder).mkdir(parents=True, exist_ok=True)
    if os.environ.get("http_proxy") or os.environ.get("HTTP_PROXY"):
        print(
            "note: this machine has an http_proxy, but the lab's package proxy asks the archive "
            "directly; if apt fails on the hosts, open plain HTTP to the archive for this machine",
            file=sys.stderr,
        )
    if not (_pid("docker-registry") and _pid("nginx")):
        stop()
        _start_processes(home)
    _wait_until_up()
    return repo


def stop() -> None:
    """End nginx and docker-registry of this lab; does nothing when they are not running."""
    for name in ("nginx", "docker-registry"):
        if pid := _pid(name):
            _end(pid)
        _pid_file(name).unlink(missing_ok=True)


def status() -> dict[str, bool]:
    """Which service answers: registry, artifacts, apt-proxy."""
    return {
        "registry": _answers(f"{paths.registry_url()}/v2/", {200}),
        "artifacts": _answers(f"{paths.artifact_url()}/", {200}),
        "apt-proxy": _answers(f"http://{paths.GATEWAY}:{paths.APT_PROXY_PORT}/", {403}),
    }


def set_fault(name: str, on: bool) -> None:
    """Switch a fault on or off; it acts at the next request.

    registry-500: the registry answers 500 to everything. Raises ValueError for another name.
    """
    if name not in FAULTS:
        raise ValueError(f"no fault {name!r}; known: {', '.join(FAULTS)}")
    flag = _home() / "faults" / name
    if on:
        flag.parent.mkdir(parents=True, exist_ok=True)
        flag.touch()
    else:
        flag.unlink(missing_ok=True)


def _home() -> Path:
    return paths.lab_dir() / "services"


def _publish_engine(engine: "EngineDir") -> None:
    folder = www_dir() / "ollama" / f"v{engine.version}"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE
    if not archive.exists() or _sha256(archive) != engine.archive_sha256:
        archive.unlink(missing_ok=True)
        try:
            archive.hardlink_to(engine.archive)
        except OSError:
            shutil.copyfile(engine.archive, archive)
    (folder / "sha256sum.txt").write_text(f"{engine.archive_sha256}  ./{ARCHIVE}\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _start_processes(home: Path) -> None:
    backend_port = _free_port()
    words = {
        "home": home,
        "faults": home / "faults",
        "cache": paths.cache_dir(),
        "www": www_dir(),
        "network": paths.NETWORK,
        "gateway": paths.GATEWAY,
        "cdn": paths.CDN,
        "public_port": paths.PUBLIC_REGISTRY_PORT,
        "overlay": paths.overlay_dir(),
        "registry_port": paths.REGISTRY_PORT,
        "artifact_port": paths.ARTIFACT_PORT,
        "proxy_port": paths.APT_PROXY_PORT,
        "backend_port": backend_port,
        "resolvers": " ".join(resolvers(Path("/etc/resolv.conf").read_text())),
    }
    templates = Environment(
        loader=FileSystemLoader(paths.SOURCE / "service_conf"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    for name in ("nginx.conf", "registry.yml"):
        (home / name).write_text(templates.get_template(f"{name}.j2").render(words))
    with (home / "docker-registry.log").open("ab") as log:
        registry = subprocess.Popen(
            ["docker-registry", "serve", str(home / "registry.yml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            start_new_session=True,
        )
    _pid_file("docker-registry").write_text(f"{registry.pid}\n")
    run("nginx", "-p", str(home), "-c", str(home / "nginx.conf"))


def resolvers(resolv_conf: str) -> list[str]:
    """Name servers of a resolv.conf, in nginx's spelling. Raises LabError when it names none."""
    words = [line.split() for line in resolv_conf.splitlines()]
    found = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    if not found:
        raise LabError("/etc/resolv.conf names no name server: the package proxy needs one")
    return [f"[{address}]" if ":" in address else address for address in found]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up() -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not all((state := status()).values()):
        # A fault that was left on is no reason to fail: the registry does answer.
        if any((_home() / "faults" / name).exists() for name in FAULTS):
            return
        if time.monotonic() > deadline:
            down = ", ".join(name for name, up in state.items() if not up)
            raise LabError(f"no answer from {down} after {_START_TIMEOUT_S} s; see {_home()}/*.log")
        time.sleep(0.1)


def _answers(url: str, expected: set[int]) -> bool:
    # Never through a proxy of this machine: the address is its own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=3) as reply:
            return reply.status in expected
    except urllib.error.HTTPError as error:
        return error.code in expected
    except OSError:
        return False


def _pid_file(name: str) -> Path:
    return _home() / f"{name}.pid"


def _pid(name: str) -> int | None:
    """Pid of our process of that name; a reused number does not count."""
    try:
        pid = int(_pid_file(name).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_text()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (OSError, ValueError):
        return None
    return pid if name in command and str(_home()) in command and state != "Z" else None


def _end(pid: int) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while _alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended; its parent only has not asked yet
