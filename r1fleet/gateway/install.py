"""Operations of the gateway stage: Caddy with its files and its unit; opened after the proof."""

from collections.abc import Generator, Mapping
from functools import cache
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.bundle import send
from r1fleet.gateway.wanted import HOME, UNIT, USER, Archive, GatewayWanted
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.managed import ManagedFile, write
from r1fleet.remote import step
from r1fleet.shell import assign, export, write_file

Commands = Generator[FunctionCommand, None, None]

_ACCOUNT = f"""
set -e
getent passwd {USER} >/dev/null || useradd --system --user-group --no-create-home \
  --home-dir {HOME} --shell /usr/sbin/nologin {USER}
install -d -o {USER} -g {USER} -m 700 {HOME}
install -d -o root -g root -m 755 {paths.ETC}
install -d -o root -g {USER} -m 750 {paths.GATEWAY_DIR}
rm -rf {paths.GATEWAY_DIR}/next
"""

_SWITCH = """
set -e
ln -sfn "$KEY" "$ROOT/.current"
mv -T "$ROOT/.current" "$ROOT/current"
"""

_MARK_RESTART = f"""
install -d -m 755 {paths.GATEWAY_MARK.rpartition("/")[0]} && echo restart >{paths.GATEWAY_MARK}
"""

_START = f"""
why() {{ echo "$1" >&2; exit 1; }}
last() {{ journalctl --sync; journalctl -q -n 30 --no-pager -o cat --since -1min -u {UNIT} |
  grep -i error | tail -n 1 | sed 's/r1f_[A-Za-z0-9_-]*/r1f_.../g'; }}
systemctl daemon-reload
systemctl enable -q {UNIT}
systemctl "$VERB" {UNIT} || why "$(last)"
rm -f {paths.GATEWAY_MARK}
"""

_REMOVE = f"""
systemctl disable -q --now {UNIT} 2>/dev/null
rm -rf {paths.GATEWAY_UNIT} {paths.GATEWAY_DIR} {paths.GATEWAY_ROOT} {HOME} {paths.GATEWAY_MARK} \
  {paths.DRAINING} {paths.REFUSING} {paths.DRAIN_FLAG}
systemctl daemon-reload
! getent passwd {USER} >/dev/null || userdel {USER}
[ ! -e {paths.GATEWAY_DIR} ] && ! systemctl is-active -q {UNIT}
"""


@operation()
def fetch(probe: Probe, archive: Archive, proxies: Mapping[str, str]) -> Commands:
    """Put Caddy's version beside the others; nothing runs it yet.

    + probe: the host as it is
    + archive: what to download and check
    + proxies: variables such as https_proxy for the download
    """
    if archive.key in probe.gateway.versions:
        return
    names = {
        "URL": archive.url,
        "SUMS_URL": archive.sums_url,
        "SHA512": archive.sha512 or "",
        "ROOT": paths.GATEWAY_ROOT,
        "KEY": archive.key,
        "STAGED": send.GATEWAY_DIR if archive.bundle else "",
    }
    if archive.bundle:
        title = f"takes Caddy {archive.version} from the bundle"
        yield send.gateway("gateway", title, archive.bundle, archive.version, probe.arch)
    yield long_step(
        "gateway",
        f"{'unpacks' if archive.bundle else 'downloads and checks'} Caddy {archive.version}",
        "r1fleet-gateway-fetch",
        export(proxies) + assign(names) + _script("install.sh"),
        "check gateway_url, gateway_sha512 and free space in /opt",
    )


@operation()
def install(probe: Probe, wanted: GatewayWanted, proxies: Mapping[str, str]) -> Commands:
    """Caddy and its files; a gateway that runs reads them at once. One that does not run is left
    alone: `start` opens it.

    + probe: the host as it is
    + wanted: from `wanted.gateway`
    + proxies: variables such as https_proxy for the download
    """
    archive, there = wanted.archive, probe.gateway
    yield from fetch._inner(probe, archive, proxies)
    differing = [file for file in wanted.files if file.differs(probe.files)]
    other_unit = wanted.unit.differs(probe.files)
    switch = there.current != archive.key
    running = probe.unit(UNIT).active == "active"
    if differing or other_unit or switch:
        # Also where all of it is there: what an earlier run sent in vain must not come along.
        yield step("gateway", "prepares its account and folders", _ACCOUNT, "see useradd(8)")
    if switch or other_unit:
        yield step("gateway", "notes a restart", _MARK_RESTART, "check /run", quiet=True)
    if switch:
        yield step(
            "gateway",
            f"switches to Caddy {archive.version}",
            assign({"ROOT": paths.GATEWAY_ROOT, "KEY": archive.key}) + _SWITCH,
            f"check {paths.GATEWAY_ROOT}",
            change=f"Caddy {archive.version}",
        )
    for file in differing:
        yield _send(file)
    if differing:
        values = {
            "DIR": paths.GATEWAY_DIR,
            "CADDY": f"{paths.GATEWAY_ROOT}/current/caddy",
            "ACCOUNT": USER,
            "HOME_DIR": HOME,
            "MARK": paths.GATEWAY_MARK,
            "VERB": "reload",
        }
        yield step(
            "gateway",
            "validates its files",
            assign(values) + _script("apply.sh"),
            "see gateway_certificate, gateway_key, gateway_listen and gateway_name; the gateway"
            " keeps the files that it had",
            quiet=True,
        )
    if other_unit:
        yield from write("gateway", [wanted.unit])
    if running and (differing or other_unit or switch or there.pending):
        again = other_unit or switch or there.pending == "restart"
        yield _begin("restart" if again else "reload")


@operation()
def start(probe: Probe) -> Commands:
    """Open the gateway, if it is closed. To be called when the engine behind it is proven.

    + probe: the host as it is
    """
    unit = probe.unit(UNIT)
    if unit.active != "active" or not unit.enabled or unit.needs_reload:
        yield _begin("start" if unit.active != "active" else "restart")


@operation()
def remove(probe: Probe) -> Commands:
    """Take the gateway away, with its tokens and its CA.

    + probe: the host as it is
    """
    if probe.gateway.versions or probe.unit(UNIT).load != "not-found":
        yield step(
            "gateway",
            "closes and removes the gateway",
            _REMOVE,
            f"see to {UNIT} on the host",
            change="gateway removed",
        )


def _send(file: ManagedFile) -> FunctionCommand:
    """A step that puts a file beside the live one, for Caddy to look at."""
    folder, _, name = file.path.rpartition("/")
    there = f"{folder}/next/{name}"
    return step(
        "gateway",
        f"writes {file.path}",
        write_file(there, file.content, mode=file.mode, owner=file.owner),
        "check the free space and rights there",
        stdin=file.content,
        change=file.path,
    )


def _begin(verb: str) -> FunctionCommand:
    told = {"start": "opens", "restart": "restarts", "reload": "reloads"}[verb]
    return step(
        "gateway",
        f"{told} the gateway",
        assign({"VERB": verb}) + _START,
        f"journalctl -u {UNIT} on the host tells more",
        change=f"gateway {'opened' if verb == 'start' else f'{verb}ed'}",
        timeout_s=180,
    )


@cache
def _script(name: str) -> str:
    text = (resources.files("r1fleet.gateway") / name).read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
