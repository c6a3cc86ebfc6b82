"""Operations of the engine stage. Each can be used alone in any deploy."""

from collections.abc import Callable, Generator, Mapping
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import lastwords, paths
from r1fleet.brought import note, noting
from r1fleet.bundle import packages as from_bundle
from r1fleet.bundle import send
from r1fleet.drain import drain
from r1fleet.engine.wanted import Archive, EngineWanted, PreloadWanted
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.managed import write
from r1fleet.remote import fail, step
from r1fleet.shell import assign, export

Commands = Generator[FunctionCommand, None, None]

SERVICE_USER = "ollama"
LOOK = "journalctl -u ollama on the host tells more"
TOOLS = {"aria2c": "aria2", "zstd": "zstd", "curl": "curl", "tar": "tar"}

# In one go: what a killed run left out, no later one would notice. A home that remove.py left, with
# the models in it, is root's.
_ADD_USER = f"""
set -e
{note(f"user {SERVICE_USER}")}
getent group {SERVICE_USER} >/dev/null || groupadd --system {SERVICE_USER}
groups=
for group in render video; do
  ! getent group $group >/dev/null || groups="$groups,$group"
done
useradd --system --gid {SERVICE_USER} --groups "${{groups#,}}" --create-home \
  --home-dir {paths.ENGINE_HOME} --skel /nonexistent --shell /usr/sbin/nologin {SERVICE_USER}
[ "$(stat -c %U {paths.ENGINE_HOME})" != root ] ||
  chown -h {SERVICE_USER}:{SERVICE_USER} {paths.ENGINE_HOME}
"""

# Its parents may be the service user's: a link that this one has planted must not have root give it
# what the link leads to. What is changed between look and deed is changed without following links.
_MODELS_DIR = """
part=$DIR
while [ "$part" != / ]; do
  if [ -L "$part" ] && [ "$(stat -c %u "$part")" != 0 ]; then
    echo "$part is a link that is not root's" >&2
    exit 1
  fi
  part=$(dirname "$part")
done
real=$(readlink -m "$DIR")
[ -d "$real" ] || install -d -m 755 "$real" || exit 1
# What remove.py left there is root's.
for part in blobs manifests; do
  [ -d "$real/$part" ] && [ "$(stat -c %u "$real/$part")" = 0 ] || continue
  chown -hR "$USER:$USER" "$real/$part" || exit 1
done
chown -h "$USER:$USER" "$real" && chmod 755 "$real"
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
since_now
# Of this very start: the last words of what it replaces may still be on their way.
systemctl "$VERB" ollama.service || {
  last_words ollama.service . SYSLOG_IDENTIFIER=wait-for-gpus + \
    "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value ollama.service)" >&2
  exit 1
}
# A restart by hand does not set the count back: what ended before may have ended often.
restarts() { systemctl show -p NRestarts --value ollama.service; }
began=$(restarts)
i=0
until curl -fsS --noproxy "*" -m 5 -o /dev/null "$URL/api/version" 2>/dev/null; do
  i=$((i + 1))
  [ $i -lt 60 ] || { echo "no answer at $URL after 60 s" >&2; exit 1; }
  tries=$(restarts)
  tries=$((${tries:-0} - ${began:-0}))
  [ "$tries" -lt 4 ] || {
    echo "it ended $tries times: $(last_words ollama.service . _SYSTEMD_UNIT=ollama.service + \
      SYSLOG_IDENTIFIER=ollama + SYSLOG_IDENTIFIER=wait-for-gpus)" >&2
    exit 1
  }
  sleep 1
done
rm -f "$MARK"
"""

_LOAD = """
systemctl daemon-reload
systemctl enable -q r1fleet-preload.service
since_now
systemctl "$VERB" r1fleet-preload.service || {
  last_words r1fleet-preload.service . SYSLOG_IDENTIFIER=preload + SYSLOG_IDENTIFIER=curl >&2
  exit 1
}
rm -f "$MARK"
"""


@operation()
def tools(
    probe: Probe,
    proxies: Mapping[str, str],
    bundle: str | None = None,
    programs: Mapping[str, str] = TOOLS,
) -> Commands:
    """Install the programs that the later stages download and unpack with.

    + probe: the host as it is
    + proxies: variables such as https_proxy for the package manager
    + bundle: the bundle on this machine that has the packages, in place of the host's sources
    + programs: the package of each program
    """
    missing = sorted(package for tool, package in programs.items() if tool not in probe.tools)
    if not missing:
        return
    if "apt-get" not in probe.tools:
        yield fail("tools", f"{', '.join(missing)} are missing", "install them, then run again")
    begin, end = export(proxies), ""
    if bundle:
        yield send_packages("tools", probe, bundle, tuple(missing))
        begin = assign({"STAGED": send.PACKAGES_DIR}) + from_bundle.FROM_BUNDLE
        end = f"\n{from_bundle.DONE}"
    yield long_step(
        "tools",
        f"installs {', '.join(missing)}",
        "r1fleet-tools",
        noting("tool", begin + _INSTALL_TOOLS + "  " + " ".join(missing) + end),
        "run again" if bundle else "check the host's apt sources, then run again",
        change=f"packages {', '.join(missing)}",
    )


@operation()
def prepare(probe: Probe, models_dir: str) -> Commands:
    """The service user and the model directory.

    + probe: the host as it is
    + models_dir: absolute path; created with its owner, also on a mount of its own
    """
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
            assign({"DIR": models_dir, "USER": SERVICE_USER}) + _MODELS_DIR,
            "check ollama_models and its mount",
            change=f"model directory {models_dir}",
        )


@operation()
def fetch(probe: Probe, archive: Archive, proxies: Mapping[str, str]) -> Commands:
    """Put the engine's version beside the others; nothing runs it yet.

    + probe: the host as it is
    + archive: what to download and check
    + proxies: variables such as https_proxy for the download
    """
    if archive.key not in probe.engine_versions:
        if archive.bundle:
            title = f"takes Ollama {archive.version} from the bundle"
            yield send.engine("engine", title, archive.bundle, archive.version, probe.arch)
        yield long_step(
            "engine",
            f"{'unpacks' if archive.bundle else 'downloads and checks'} Ollama {archive.version}",
            "r1fleet-engine",
            _install_script(archive, proxies),
            "the host keeps what it had; check engine_url, engine_sha256 and free space in /opt",
        )


def restart_script(base_url: str, verb: str) -> str:
    """Starts the engine with what is on the disk, and waits until it answers."""
    values = {"URL": base_url, "MARK": paths.RESTART_MARK, "VERB": verb}
    return assign(values) + lastwords.script() + _RESTART


def load_script(verb: str) -> str:
    """Starts the unit that loads the model, and waits until it is loaded."""
    return assign({"MARK": paths.RESTART_MARK, "VERB": verb}) + lastwords.script() + _LOAD


def restart(
    stage: str, title: str, base_url: str, change: str, *, verb: str = "restart"
) -> FunctionCommand:
    """A step that does so."""
    script = restart_script(base_url, verb)
    return step(stage, title, script, LOOK, change=change, timeout_s=600)


@operation()
def install(
    probe: Probe, wanted: EngineWanted, start: Callable[..., FunctionCommand] = restart
) -> Commands:
    """Install the engine's version beside the others, render its files, switch, restart.

    + probe: the host as it is
    + wanted: archive and files
    + start: makes the step that restarts or starts it
    """
    archive = wanted.archive
    yield from fetch._inner(probe, archive, wanted.proxies)
    differing = [file for file in wanted.files if file.differs(probe.files)]
    switch = probe.engine_current != archive.key
    if differing or switch:
        yield mark()
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
    running = unit.active == "active" and unit.enabled and not unit.needs_reload
    # Another version answers while the switch waits for its restart; None does not answer at all.
    healthy = running and probe.engine_version == archive.version
    if differing or switch or probe.restart_pending or not healthy:
        again = differing or switch or probe.restart_pending or unit.active == "active"
        was_active = unit.active == "active"
        if was_active:
            yield from drain._inner(probe, wanted.drain_timeout_s)
        yield start(
            "engine",
            "restarts Ollama" if was_active else "starts Ollama",
            wanted.base_url,
            "Ollama restarted" if was_active else "Ollama started",
            # A start that is under way, as after a boot, is joined.
            verb="restart" if again else "start",
        )


@operation()
def preload(probe: Probe, wanted: PreloadWanted, again: bool = False) -> Commands:
    """Install and start the oneshot that loads the model after each start of the engine.

    + probe: the host as it is, the model delivered
    + wanted: the unit, its script and its request
    + again: load now even if the unit ran before (the model is not in memory and should be)
    """
    differing = [file for file in wanted.files if file.differs(probe.files)]
    if differing:
        yield mark()
    yield from write("model", differing)
    unit = probe.unit("r1fleet-preload.service")
    loading = unit.active in ("active", "activating") and unit.enabled and not unit.needs_reload
    if differing or again or not loading:
        # A load that is under way is joined, not begun anew.
        verb = "restart" if differing or unit.active == "active" else "start"
        yield step(
            "model",
            f"loads {wanted.model}",
            load_script(verb),
            "journalctl -u ollama -u r1fleet-preload on the host tells more",
            change=f"{wanted.model} loaded",
            timeout_s=wanted.timeout_s,
        )


def send_packages(stage: str, probe: Probe, bundle: str, names: tuple[str, ...]) -> FunctionCommand:
    """A step that sends what the host lacks of these packages and all that they need."""
    release = f"{probe.distro} {probe.distro_version}"
    title = f"takes {', '.join(names)} from the bundle"
    return send.packages(stage, title, bundle, release, probe.arch, names)


def mark() -> FunctionCommand:
    """Note on the host that what runs there reads other files than it was started with."""
    folder = paths.RESTART_MARK.rpartition("/")[0]
    return step(
        "engine",
        "notes that a restart must follow",
        f"install -d -m 755 {folder} && touch {paths.RESTART_MARK}",
        "check /run",
        quiet=True,
    )


def _install_script(archive: Archive, proxies: Mapping[str, str]) -> str:
    head = export(proxies) + assign(
        {
            "URL": archive.url,
            "SHA256": archive.sha256 or "",
            "ROCM_URL": archive.rocm_url or "",
            "MIRROR": archive.mirror or "",
            "SOURCE": archive.source or "",
            "STAGED": send.ENGINE_DIR if archive.bundle else "",
            "ROOT": paths.ENGINE_ROOT,
            "KEY": archive.key,
        }
    )
    return head + (resources.files("r1fleet.engine") / "install.sh").read_text(encoding="ascii")
