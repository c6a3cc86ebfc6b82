"""Operations of the engine stage. Each can be used alone in any deploy."""

import shlex
from collections.abc import Generator
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.engine.wanted import EngineWanted, PreloadWanted
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.managed import write
from r1fleet.remote import step
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]

SERVICE_USER = "ollama"
HOME = "/var/lib/ollama"
TOOLS = {"aria2c": "aria2", "zstd": "zstd", "curl": "curl", "tar": "tar"}

_ADD_USER = f"""
set -e
getent group {SERVICE_USER} >/dev/null || groupadd --system {SERVICE_USER}
id -u {SERVICE_USER} >/dev/null 2>&1 || useradd --system --gid {SERVICE_USER} --home-dir {HOME} \
  --no-create-home --shell /usr/sbin/nologin {SERVICE_USER}
for group in render video; do
  getent group $group >/dev/null && usermod -a -G $group {SERVICE_USER}
done
install -d -o {SERVICE_USER} -g {SERVICE_USER} -m 755 {HOME}
"""

_INSTALL_TOOLS = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=600 update
apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 install -y --no-install-recommends \
"""

_RESTART = """
systemctl daemon-reload
systemctl enable -q ollama.service
systemctl restart ollama.service || {
  journalctl -n 1 --no-pager -o cat --since -3min -t wait-for-gpus -t ollama >&2; exit 1; }
i=0
until curl -fsS -m 5 -o /dev/null "$URL/api/version" 2>/dev/null; do
  i=$((i + 1))
  [ $i -lt 60 ] || { echo "no answer at $URL after 60 s" >&2; exit 1; }
  sleep 1
done
rm -f "$MARK"
"""


@operation()
def prepare(probe: Probe, models_dir: str) -> Commands:
    """What the later stages stand on: download tools, the service user, the model directory.

    + probe: the host as it is
    + models_dir: absolute path; created with its owner, also on a mount of its own
    """
    missing = sorted(package for tool, package in TOOLS.items() if tool not in probe.tools)
    if missing:
        yield long_step(
            "engine",
            f"installs {', '.join(missing)}",
            "r1fleet-tools",
            _INSTALL_TOOLS + "  " + " ".join(missing),
            "check the host's apt sources, then run again",
            change=f"packages {', '.join(missing)}",
        )
    if SERVICE_USER not in probe.user_groups:
        yield step(
            "engine",
            f"adds the user {SERVICE_USER}",
            _ADD_USER,
            "see useradd(8)",
            change=f"user {SERVICE_USER}",
        )
    if probe.models.kind is None or probe.models.owner != f"{SERVICE_USER}:{SERVICE_USER}":
        yield step(
            "engine",
            f"makes the model directory {models_dir}",
            f"install -d -o {SERVICE_USER} -g {SERVICE_USER} -m 755 {shlex.quote(models_dir)}",
            "check ollama_models and its mount",
            change=f"model directory {models_dir}",
        )


@operation()
def install(probe: Probe, wanted: EngineWanted) -> Commands:
    """Install the engine's version beside the others, render its files, switch, restart.

    + probe: the host as it is
    + wanted: archive and files
    """
    archive = wanted.archive
    if archive.key not in probe.engine_versions:
        yield long_step(
            "engine",
            f"downloads and checks Ollama {archive.version}",
            "r1fleet-engine",
            _install_script(wanted),
            "the host keeps what it had; check engine_url, engine_sha256 and free space in /opt",
        )
    differing = [file for file in wanted.files if file.differs(probe.files)]
    switch = probe.engine_current != archive.key
    if differing or switch:
        yield step(
            "engine",
            "notes that a restart must follow",
            f"install -d -m 700 {paths.RESTART_MARK.rpartition('/')[0]}"
            f" && touch {paths.RESTART_MARK}",
            "check /run",
        )
    yield from write("engine", differing)
    if switch:
        yield step(
            "engine",
            f"switches to Ollama {archive.version}",
            assign({"ROOT": paths.ENGINE_ROOT, "KEY": archive.key})
            + 'set -e; ln -sfn "$KEY" "$ROOT/.current"; mv -T "$ROOT/.current" "$ROOT/current"\n'
            'ln -sfn "$ROOT/current/bin/ollama" /usr/local/bin/ollama',
            "check /opt/ollama",
            change=f"engine {archive.version}",
        )
    unit = probe.unit("ollama.service")
    healthy = unit.active == "active" and unit.enabled and not unit.needs_reload
    if differing or switch or probe.restart_pending or not healthy:
        yield step(
            "engine",
            "restarts Ollama" if unit.active == "active" else "starts Ollama",
            assign({"URL": wanted.base_url, "MARK": paths.RESTART_MARK}) + _RESTART,
            "journalctl -u ollama on the host tells more",
            change="Ollama restarted" if unit.active == "active" else "Ollama started",
            timeout_s=300,
        )


@operation()
def preload(probe: Probe, wanted: PreloadWanted, again: bool = False) -> Commands:
    """Install and start the oneshot that loads the model after each start of the engine.

    + probe: the host as it is, the model delivered
    + wanted: the unit, its script and its request
    + again: load now even if the unit ran before (the model is not in memory and should be)
    """
    differing = [file for file in wanted.files if file.differs(probe.files)]
    yield from write("engine", differing)
    unit = probe.unit("r1fleet-preload.service")
    settled = unit.active == "active" and unit.enabled and not unit.needs_reload
    if differing or again or not settled:
        yield step(
            "model",
            f"loads {wanted.model}",
            "systemctl daemon-reload; systemctl enable -q r1fleet-preload.service\n"
            "systemctl restart r1fleet-preload.service || { journalctl -n 20 --no-pager -o cat"
            " -u r1fleet-preload.service | grep curl | tail -n 1 >&2; exit 1; }",
            "journalctl -u ollama on the host tells more",
            change=f"{wanted.model} loaded",
            timeout_s=1800,
        )


def _install_script(wanted: EngineWanted) -> str:
    archive = wanted.archive
    head = assign(
        {
            "URL": archive.url,
            "SHA256": archive.sha256 or "",
            "ROOT": paths.ENGINE_ROOT,
            "KEY": archive.key,
        }
    )
    return head + (resources.files("r1fleet.engine") / "install.sh").read_text(encoding="ascii")
