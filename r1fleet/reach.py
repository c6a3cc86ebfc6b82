"""The hosts of an inventory, read by pyinfra itself and asked something all at once.

For commands that only look. They need no operation and no deploy file: without them no dead host
ends the run for the others, nothing waits for the slowest, and connections can be kept.
Importing pyinfra's command line makes blocking calls cooperative, so it happens in here only.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from r1fleet import hostkeys, passwords, silent, sshconfig
from r1fleet.lock import LockError
from r1fleet.settings import Settings, SettingsError, locked, read_all
from r1fleet.sudo_password import SudoPasswordError
from r1fleet.words import plain

if TYPE_CHECKING:
    from pyinfra.api import Config, Host, State

T = TypeVar("T")

ASK_LIMIT_S = 150  # two calls of nvidia-smi may take half a minute each, and the host be busy
EXIT_INTERRUPTED = 130


class InventoryError(Exception):
    """The inventory, its limits or settings cannot be used; one line for each fault, in `lines`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class NoAnswer(Exception):
    """For questions to raise: the host had none, the message says why."""

    def __init__(self, why: str) -> None:
        super().__init__(plain(why))  # some of it may be the host's own words


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a host said. Without a value, `is_reached` tells whether there was a connection."""

    value: T | None
    reason: str = ""
    is_reached: bool = True


class Fleet:
    """The hosts of an inventory (only those in the limit) with their settings."""

    def __init__(
        self, state: "State", inventory: "list[Host]", hosts: "list[Host]", log: "_Log"
    ) -> None:
        self.state, self.hosts, self._log = state, hosts, log
        from r1fleet.fleet import balancers, with_mirrors  # noqa: PLC0415

        data = {host.name: host.data.dict() for host in hosts}  # type: ignore[no-untyped-call]
        if lines := passwords.refused(data, getattr(state, "config", None)):
            raise InventoryError(lines)
        try:
            joined = with_mirrors(inventory, locked(read_all(data)))
            self.balancers = balancers(hosts, joined.settings)
        except SettingsError as error:
            raise InventoryError(error.lines) from error
        except LockError as error:
            raise InventoryError([str(error)]) from error
        self.settings: dict[str, Settings] = {name: joined.settings[name] for name in data}
        self.mirrors = joined.mirrors

    def prepare(self) -> None:
        """For questions that run commands: ask for what sudo wants, before any host is asked.

        Raises InventoryError.
        """
        from r1fleet import elevate  # noqa: PLC0415

        data = {host.name: host.data.dict() for host in self.hosts}  # type: ignore[no-untyped-call]
        try:
            elevate.prepare(data, self.state.config)
        except SudoPasswordError as error:
            raise InventoryError([str(error)]) from error

    def ask(
        self,
        question: "Callable[[Host], T]",
        limit_s: float = ASK_LIMIT_S,
        meanwhile: Callable[[], object] | None = None,
    ) -> dict[str, Answer[T]]:
        """Connect to every host that is not connected, and put the question to it, all at once.

        + question: may raise anything, which is then the reason why there is no value
        + meanwhile: called while the hosts are at work
        """
        import gevent  # noqa: PLC0415

        asked = {host.name: gevent.spawn(self._ask, host, question, limit_s) for host in self.hosts}
        gevent.sleep(0)  # sends them off
        if meanwhile:
            meanwhile()
        gevent.joinall(list(asked.values()))
        return {name: greenlet.get() for name, greenlet in asked.items()}

    def _ask(self, host: "Host", question: "Callable[[Host], T]", limit_s: float) -> Answer[T]:
        import gevent  # noqa: PLC0415
        from pyinfra.api.exceptions import ConnectError  # noqa: PLC0415
        from pyinfra.context import ctx_host  # noqa: PLC0415

        late = TimeoutError(f"connected, but no answer within {limit_s:g} s")
        try:
            host.connect(show_errors=False, raise_exceptions=True)
        except ConnectError as error:
            return Answer(None, str(error), is_reached=False)
        except Exception as error:  # of a key or a file of this host's connection data
            return Answer(None, _told(error), is_reached=False)
        try:
            with ctx_host.use(host), gevent.Timeout(limit_s, late):
                return Answer(question(host))
        except Exception as error:  # whatever it is, it is this host's alone
            host.connected = False  # the next question connects anew
            return Answer(None, plain(self._log.about(host)) or _told(error))


def load(inventory: str, limit: Iterable[str] = (), data: Iterable[str] = ()) -> Fleet:
    """Read an inventory with its group data, limits and config.py as the main job does.

    Raises InventoryError.
    """
    log = _Log()
    try:
        state = _state(inventory, _overrides(data))
    except InventoryError:
        raise
    except SystemExit as error:  # an inventory may end with what is missing
        raise InventoryError([str(error.code)]) from error
    except Exception as error:  # inventories are code: they can raise anything
        raise InventoryError([f"{inventory}: {_told(error)}"]) from error
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    hosts = list(state.inventory)
    if not hosts:
        raise InventoryError(log.lines or [f"{inventory} names no host"])
    return Fleet(state, hosts, _limited(state, hosts, tuple(limit)), log)


def _state(inventory: str, overrides: dict[str, Any]) -> "State":
    import pyinfra_cli  # noqa: F401, PLC0415  first of all: it makes calls cooperative
    from pyinfra.api import Config, State  # noqa: PLC0415
    from pyinfra.context import ctx_config, ctx_inventory, ctx_state  # noqa: PLC0415
    from pyinfra_cli.inventory import make_inventory  # noqa: PLC0415

    cwd = str(Path.cwd())
    if cwd not in sys.path:
        sys.path.append(cwd)
    hostkeys.hold()
    sshconfig.hold()
    silent.hold()
    state, config = State(), Config()  # type: ignore[no-untyped-call]
    state.cwd = cwd
    ctx_state.set(state)  # type: ignore[no-untyped-call]
    ctx_config.set(config)  # type: ignore[no-untyped-call]
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # beside the inventory
    try:
        _read_config(Path(cwd) / "config.py", config)
        found = make_inventory(inventory, cwd=cwd, override_data=overrides)
    finally:
        sys.dont_write_bytecode = written
    ctx_inventory.set(found)  # type: ignore[no-untyped-call]
    state.init(found, config)
    return state


def _read_config(path: Path, config: "Config") -> None:
    from pyinfra_cli.util import exec_file  # noqa: PLC0415

    if path.exists():
        exec_file(str(path))
    config.lock_current_state()


def _overrides(data: Iterable[str]) -> dict[str, Any]:
    import pyinfra_cli  # noqa: F401, PLC0415
    from pyinfra_cli.util import parse_cli_arg  # noqa: PLC0415

    pairs = [pair.partition("=") for pair in data]
    if wrong := [key for key, sign, _ in pairs if not sign]:
        raise InventoryError(f"--data takes key=value, got {key!r}" for key in wrong)
    return {key: parse_cli_arg(value) for key, _, value in pairs}


def _limited(state: "State", hosts: "list[Host]", limit: tuple[str, ...]) -> "list[Host]":
    """The hosts that a limit names, by group, name or pattern, in the inventory's order."""
    from pyinfra.api.exceptions import NoGroupError  # noqa: PLC0415

    kept: set[str] = set()
    for name in limit:
        try:
            found = {host.name for host in state.inventory.get_group(name)}
        except NoGroupError:
            found = {host.name for host in hosts if fnmatch(host.name, name)}
        if not found:
            raise InventoryError([f"no host or group of the inventory is named {name!r}"])
        kept |= found
    return [host for host in hosts if host.name in kept] if limit else hosts


def _told(error: BaseException) -> str:
    """An error in one line; pyinfra wraps those of an inventory's code."""
    from r1fleet.elevate import NotBegun  # noqa: PLC0415  after pyinfra's command line

    error = getattr(error, "exception", error)
    text = plain(" ".join(str(error).split()))
    if text and isinstance(error, NoAnswer | NotBegun | TimeoutError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Log(logging.Handler):
    """What pyinfra would have printed, kept: here each host has one line of its own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logger = logging.getLogger("pyinfra")
        logger.handlers[:] = [self]
        logger.propagate = False
        # Its tracebacks about a host that hangs up say nothing that the one line does not.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def about(self, host: "Host") -> str:
        """The first thing that was said of a host; forgotten then."""
        mine = [line for line in self.lines if line.startswith(host.print_prefix)]
        self.lines = [line for line in self.lines if line not in mine]
        return mine[0].removeprefix(host.print_prefix) if mine else ""
