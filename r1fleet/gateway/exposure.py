"""Who really reaches a host's engine and its gateway: tried from here, and from another host.

What listens where says little: forwarded ports, proxies and firewalls decide as well.
"""

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import fleet, outcome, paths
from r1fleet.fleet import HostRun
from r1fleet.gateway import knock
from r1fleet.hostfacts import Probe
from r1fleet.remote import HostFailure, host_task, run, say, warn
from r1fleet.settings import Settings
from r1fleet.settings_check import is_loopback
from r1fleet.shell import assign
from r1fleet.verify.smoke import write_state

Commands = Generator[FunctionCommand, None, None]

FIX = "see what forwards to it, then run again; docs/gateway.md"

# Statuses of both; 000 is no answer. No token goes along: that the gateway asks for one is enough.
_FROM_ANOTHER = """
ask() { curl -sk --noproxy '*' -m 5 -o /dev/null -w '%{http_code} ' "$1" || :; }
ask "$ENGINE"; ask "$GATEWAY"; echo
"""


@dataclass(frozen=True)
class Exposure:
    """What others should reach of a host, and where. Ports are TCP ports of `address`."""

    policy: str
    address: str
    engine_port: int
    gateway_port: int | None  # None: it has none, or one for itself alone
    tls: str
    name: str  # that its certificate is for
    root: str = field(default="", repr=False)  # certificate of its own CA, PEM

    @property
    def gateway_url(self) -> str:
        return f"{'http' if self.tls == 'off' else 'https'}://{_in_url(self)}:{self.gateway_port}"

    @property
    def opened(self) -> str | None:
        """What others should reach."""
        if self.policy == "open":
            return self.engine_url
        return self.gateway_url if self.gateway_port else None

    @property
    def engine_url(self) -> str:
        return f"http://{_in_url(self)}:{self.engine_port}"


def _in_url(want: Exposure) -> str:
    return f"[{want.address}]" if ":" in want.address else want.address


def exposure(settings: Settings, address: str, root: str) -> Exposure:
    """What a host's policy lets others reach. Pure."""
    outside = settings.expose == "gateway" and not is_loopback(settings.gateway_listen)
    return Exposure(
        policy=settings.expose,
        address=address,
        engine_port=int(settings.ollama_host.rpartition(":")[2]),
        gateway_port=settings.gateway_port if outside else None,
        tls=settings.gateway_tls,
        name=settings.gateway_name or address,
        root=root,
    )


def stamp(want: Exposure, probe: Probe) -> str:
    """All that a check rests on, as one SHA-256 (hex)."""
    files = (paths.ENGINE_ENV, paths.GATEWAY_CADDYFILE, paths.GATEWAY_TOKENS, paths.GATEWAY_UNIT)
    there = {path: probe.files.get(path) for path in files}
    # Not by which name it is entered: operators may have names of their own for a host, and what
    # a certificate is for stands in the Caddyfile.
    wants = {key: value for key, value in asdict(want).items() if key not in ("address", "name")}
    inputs = {"want": wants, "files": there, "boot_id": probe.boot_id}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def is_proven(state: Mapping[str, Any], now: str) -> bool:
    """Whether the last check still stands; with a new proof it is gone from the state.

    + state: state.json as it is now
    + now: the stamp
    """
    entry = state.get("exposure")
    return isinstance(entry, dict) and entry.get("stamp") == now


@dataclass
class Tried:
    """Whether anybody reached what the policy opens: this machine, or another host."""

    reached: bool = False


@operation()
def check(host_run: HostRun, probe: Probe, state: Mapping[str, Any]) -> Commands:
    """Fail a host that others reach against its policy, or whose gateway does not do its work.

    + host_run: the host's settings
    + probe: the host as it is, its gateway open
    + state: state.json as it is now
    """
    settings = host_run.settings
    want = exposure(settings, host_run.address, probe.gateway.root)
    if host_run.address.startswith("@") or is_loopback(f"{_in_url(want)}:0"):
        # What answers there is whoever knocks, or what forwards to the host.
        why = f"it is entered through {want.address}: whether others reach it was not tried"
        notes = outcome.of(host_run.host.name).notes
        notes += [why] if why not in notes else []
        return
    now, tried = stamp(want, probe), Tried()
    proven = is_proven(state, now)
    if proven and state["exposure"].get("reached", True):
        return
    if proven and (host_run.rehearsing or not host_run.host.state.is_executing):
        outcome.of(host_run.host.name).note([f"{want.opened} was reached from nowhere so far"])
        return
    title = f"connects to {want.address}, from here and from another host"
    yield try_it("verify", title, want, host_run, tried)
    is_news = tried.reached or not proven
    entry = {
        "stamp": now,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        # One that nobody has reached is tried again by each run.
        "reached": tried.reached or want.opened is None,
    }
    if is_news and not host_run.rehearsing:
        yield from write_state._inner({**state, "exposure": entry}, state)


@host_task
def try_it(
    host: Host, stage: str, title: str, want: Exposure, host_run: HostRun, tried: Tried
) -> None:
    """Knock at engine and gateway; every place must see what the policy says."""
    say(host, stage, title)
    told = [_from_here(host, want, host_run, tried), *_from_another(host, want, tried)]
    say(host, stage, f"{want.policy}: {'; '.join(told)}")


def _from_here(host: Host, want: Exposure, host_run: HostRun, tried: Tried) -> str:
    reached = want.engine_port != want.gateway_port and knock.answers(
        want.address, want.engine_port
    )
    _judge_engine(host, want, reached, "this machine")
    tried.reached |= reached and want.policy == "open"
    if want.gateway_port is None:
        return f"the engine {'answers' if reached else 'does not answer'} this machine"
    token = host_run.settings.gateway_store.for_host(host.name).secret
    try:
        said = knock.gateway(want.address, want.gateway_port, want.tls, want.name, want.root, token)
    except knock.Untrusted as error:
        if want.tls == "internal":
            raise HostFailure("gateway", f"its certificate is not its CA's: {error}", FIX) from None
        warn(host, f"the gateway's certificate is not trusted by this machine: {error}")
        tried.reached = True
        return "the gateway answers this machine"
    except OSError as error:
        warn(host, f"{want.gateway_url} is not reached from this machine: {error}")
        return "the gateway was not reached from this machine"
    if said != (401, 200):
        why = (
            f"it answers {said[0]} without a token and {said[1]} with one, in place of 401 and 200"
        )
        raise HostFailure("gateway", why, "journalctl -u r1fleet-gateway on the host tells more")
    tried.reached = True
    return "this machine reaches it by token alone"


def _from_another(host: Host, want: Exposure, tried: Tried) -> list[str]:
    """The same from the first other host of this run that can tell."""
    for name, other in fleet.everyone().items():
        if name == host.name or not _can_knock(other):
            continue
        urls = {
            "ENGINE": f"{want.engine_url}/api/version",
            "GATEWAY": f"{want.gateway_url}/api/version" if want.gateway_port else "http://[::1]:9",
        }
        try:
            words = run(other.host, assign(urls) + _FROM_ANOTHER, timeout_s=30).stdout.split()
        except (HostFailure, AttributeError):  # paramiko has no transport in a reboot
            continue
        if len(words) != 2:
            continue
        engine, gateway = words
        same = want.engine_port == want.gateway_port
        _judge_engine(host, want, engine != "000" and not same, name)
        if want.gateway_port and gateway not in ("000", "401"):
            why = f"it answers {name} with {gateway} without a token, in place of 401"
            raise HostFailure("gateway", why, FIX)
        tried.reached |= (engine if want.policy == "open" else gateway) != "000"
        if want.gateway_port and gateway == "000":
            warn(host, f"{want.gateway_url} is not reached from {name}")
        return [f"{name} likewise"]
    return ["no other host of this run could try"]


def _can_knock(other: HostRun) -> bool:
    """Whether a host can be asked now; not one that may be in a reboot: nobody waits for that."""
    found = outcome.of(other.host.name)
    away = found.failed_as == "lost" or (found.stage == "driver" and not found.done)
    return other.probe is not None and "curl" in other.probe.tools and not away


def _judge_engine(host: Host, want: Exposure, reached: bool, who: str) -> None:
    if reached and want.policy != "open":
        why = f"expose is {want.policy}, and {who} reaches the engine at {want.engine_url}"
        raise HostFailure("exposure", why, FIX)
    if not reached and want.policy == "open":
        warn(host, f"expose is open, and {who} does not reach the engine at {want.engine_url}")
