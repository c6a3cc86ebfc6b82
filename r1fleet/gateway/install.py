"""Operations of the gateway stage: Caddy with its files and its unit; opened after the proof."""

from collections.abc import Generator, Mapping
from functools import cache
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import lastwords, paths
from r1fleet.bundle import send
from r1fleet.drain import drain
from r1fleet.gateway.wanted import HOME, UNIT, USER, Archive, GatewayWanted
from r1fleet.hostfacts import Probe
from r1fleet.longstep import long_step
from r1fleet.managed import ManagedFile, write
from r1fleet.remote import step
from r1fleet.shell import assign, export, write_file

Commands = Generator[FunctionCommand, None, None]

ANSWER_S = 20  # a restarted gateway answers within this, or what ran before is put back
RESTART_LIMIT_S = 420  # two stops, which wait a minute for running answers, and two starts

_ACCOUNT = f"""
set -e
getent passwd {USER} >/dev/null || useradd --system --user-group --no-create-home \
  --home-dir {HOME} --shell /usr/sbin/nologin {USER}
install -d -o {USER} -g {USER} -m 700 {HOME}
install -d -o root -g root -m 755 {paths.ETC}
install -d -o root -g {USER} -m 750 {paths.GATEWAY_DIR}
rm -rf {paths.GATEWAY_DIR}/next
"""

_START = f"""
systemctl daemon-reload
systemctl enable -q {UNIT}
since_now
systemctl "$VERB" {UNIT} || {{ said >&2; exit 1; }}
rm -rf {paths.GATEWAY_MARK} {paths.GATEWAY_BEFORE}
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
def install(
    probe: Probe, wanted: GatewayWanted, proxies: Mapping[str, str], drain_timeout_s: int
) -> Commands:
    """Caddy and its files; a gateway that runs reads them at once. One that does not run is left
    alone: `start` opens it.

    + probe: the host as it is
    + wanted: from `wanted.gateway`
    + proxies: variables such as https_proxy for the download
    + drain_timeout_s: before a restart, how long to wait for requests that the engine answers
    """
    archive, there, unit = wanted.archive, probe.gateway, probe.unit(UNIT)
    yield from fetch._inner(probe, archive, proxies)
    differing = [file for file in wanted.files if file.differs(probe.files)]
    other_unit = wanted.unit.differs(probe.files)
    switch = there.current != archive.key
    if differing or other_unit or switch:
        # Also where all of it is there: what an earlier run sent in vain must not come along.
        yield step("gateway", "prepares its account and folders", _ACCOUNT, "see useradd(8)")
        for file in differing:
            yield _send(file)
        yield _apply(wanted, "restart" if other_unit or switch else "reload", switch)
    if other_unit:
        yield from write("gateway", [wanted.unit])
    if unit.active != "active":
        return
    if other_unit or switch or there.pending == "restart" or unit.needs_reload:
        if not there.knows:
            yield from drain._inner(probe, drain_timeout_s, whose="gateway")
        yield _restart(wanted, cuts=bool(there.knows))
    elif differing or there.pending:
        yield _begin("reload")


@operation()
def start(probe: Probe) -> Commands:
    """Open the gateway, if it is closed. To be called when the engine behind it is proven.

    + probe: the host as it is
    """
    unit = probe.unit(UNIT)
    if unit.active != "active" or not unit.enabled:
        yield _begin("start")


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


def _apply(wanted: GatewayWanted, verb: str, switch: bool) -> FunctionCommand:
    """A step that makes what was sent live, if the Caddy that is to run takes it."""
    values = _places(wanted) | {"ACCOUNT": USER, "HOME_DIR": HOME, "VERB": verb}
    version = wanted.archive.version
    return step(
        "gateway",
        f"validates its files and switches to Caddy {version}" if switch else "validates its files",
        assign(values) + _script("apply.sh"),
        "see gateway_version, gateway_certificate, gateway_key, gateway_listen and gateway_name;"
        " the gateway keeps what it had",
        change=f"Caddy {version}" if switch else None,
        quiet=not switch,
    )


def _places(wanted: GatewayWanted) -> dict[str, str]:
    """What apply.sh keeps, and restart.sh puts back."""
    return {
        "DIR": paths.GATEWAY_DIR,
        "ROOT": paths.GATEWAY_ROOT,
        "KEY": wanted.archive.key,
        "UNIT": UNIT,
        "UNIT_FILE": paths.GATEWAY_UNIT,
        "BEFORE": paths.GATEWAY_BEFORE,
        "MARK": paths.GATEWAY_MARK,
    }


def _restart(wanted: GatewayWanted, *, cuts: bool) -> FunctionCommand:
    """A step that restarts it, and goes back to what ran before when the new one does not answer.

    + cuts: it stands before other hosts' engines: what goes through it now cannot be waited for
    """
    marks = f"{paths.REFUSING} {paths.DRAINING} {paths.DRAIN_FLAG}"
    values = _places(wanted) | {"MARKS": marks, "ANSWER_S": str(ANSWER_S)}
    return step(
        "gateway",
        "restarts the gateway" + (": connections through it are cut" if cuts else ""),
        assign(values) + _said() + _script("restart.sh"),
        f"journalctl -u {UNIT} on the host tells more",
        change="gateway restarted",
        timeout_s=RESTART_LIMIT_S,
    )


def _begin(verb: str) -> FunctionCommand:
    told = {"start": "opens", "reload": "reloads"}[verb]
    return step(
        "gateway",
        f"{told} the gateway",
        assign({"VERB": verb, "UNIT": UNIT}) + _said() + _START,
        f"journalctl -u {UNIT} on the host tells more",
        change=f"gateway {'opened' if verb == 'start' else 'reloaded'}",
        timeout_s=180,
    )


def _said() -> str:
    return lastwords.script() + _script("said.sh")


@cache
def _script(name: str) -> str:
    text = (resources.files("r1fleet.gateway") / name).read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
