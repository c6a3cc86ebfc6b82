"""`r1fleet lab ...`: boots the simulated lab, looks after it, takes it away again."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import click
from rich.console import Console
from rich.table import Table

from lab import checks, faults, hosts, identity, network, overlay, services, state, wan
from lab.bring_up import bring_up
from lab.paths import NAME, SOURCE, cache_dir, lab_dir
from lab.shell import LabError, Refusal
from lab.spec import LabSpec, SpecError, load
from lab.state import LabState
from lab.steps import Steps

P = ParamSpec("P")

# One lab per number, whatever its folder: its addresses are fixed.
LOCK = Path(f"/run/{NAME.rstrip('-')}.lock")

SIMULATED = (
    "Simulated: kernel modules, nvidia-smi, PCI entries, memory size, CUDA device lines. "
    "Real: SSH, systemd, apt, HTTP, the registry protocol, Ollama, llama.cpp inference."
)

console = Console()


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Every failure is one line per fault on stderr and an exit code, never a traceback."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SpecError as error:
            raise SystemExit(_complain(str(error), Refusal.exit_code)) from error
        except LabError as error:
            raise SystemExit(_complain(str(error), error.exit_code)) from error
        except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
            raise SystemExit(_complain(str(error), LabError.exit_code)) from error
        except KeyboardInterrupt:
            hint = "interrupted; run the same again to go on, or: r1fleet lab down"
            raise SystemExit(_complain(hint, 130)) from None

    return wrapper


def _complain(text: str, exit_code: int) -> int:
    for line in text.split("\n"):
        click.echo(f"lab: {line}", err=True)
    return exit_code


def _become_root() -> None:
    """Run the same command again through sudo when this is not root; then it does not return."""
    os.umask(0o022)
    # A person's PATH often lacks the folders of ip and nginx.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"
    checks.require_linux()
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        raise Refusal("the lab needs root (mounts, network), and there is no sudo: run it as root")
    settings = {key: value for key, value in os.environ.items() if key.startswith("R1_")}
    settings |= {"R1_CACHE_DIR": str(cache_dir()), "R1_LAB_DIR": str(lab_dir())}
    click.echo("lab: needs root (mounts, network); going on through sudo", err=True)
    words = [f"{key}={value}" for key, value in settings.items()]
    os.execvp("sudo", ["sudo", "--", "env", *words, sys.executable, *sys.orig_argv[1:]])


@contextmanager
def _alone() -> Iterator[None]:
    """Only one command at a time may change the lab; another one waits."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo("lab: waiting for another lab command to end", err=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@click.group()
def lab() -> None:
    """The simulated lab: real Debian hosts on this machine, with simulated GPUs.

    Example: r1fleet lab up
    """


@lab.command()
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=SOURCE / "hosts.yaml",
    help="Lab file: hosts and their hardware. Default: six hosts, from a GTX 1080 Ti to an H100,"
    " and two that no inventory has.",
)
@reported
def up(path: Path) -> None:
    """Boot the lab; build what is missing first.

    Can be run again: only what is missing is started, and a changed lab file adds, removes or
    remakes the hosts that differ.

    Example: r1fleet lab up --file my-hosts.yaml
    """
    spec = load(path)
    _become_root()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _alone():
        with Steps(console) as steps:
            lab_state = bring_up(spec, steps)
        _show(spec, lab_state)


def _show(spec: LabSpec, lab_state: LabState) -> None:
    table = Table("host", "address", "release", "simulated GPUs")
    for name, host in lab_state.hosts.items():
        cards = [
            f"{gpu.name}, {f'{gpu.memory_mib} MiB' if gpu.memory_mib else 'shares the memory'}"
            for gpu in spec.gpus_of(name)
        ]
        table.add_row(name, host.address, host.release, "\n".join(cards) or "none")
    console.print(table)
    console.print(SIMULATED, soft_wrap=True)
    console.print(f"Log in: r1fleet lab ssh {next(iter(lab_state.hosts))}", highlight=False)


@lab.command()
@reported
def down() -> None:
    """Take the lab away: hosts with all they wrote, services, network. The cache stays.

    Example: r1fleet lab down
    """
    _become_root()
    with _alone():
        hosts.down()
        services.stop()
        network.down()
        state.release()
    click.echo("the lab is down")


@lab.command()
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@reported
def status(as_json: bool) -> None:
    """Which hosts and services are up. Exit code 0: all of them; 1: some are not.

    Example: r1fleet lab status --json
    """
    states = {name: hosts.state(host) for name, host in hosts.existing().items()}
    running = services.status()
    good = bool(states) and set(states.values()) == {"up"} and all(running.values())
    if as_json:
        content = {"version": state.VERSION, "up": good, "hosts": states, "services": running}
        click.echo(json.dumps(content, indent=1))
    else:
        table = Table("what", "state")
        for name, value in states.items():
            table.add_row(f"host {name}", value)
        for name, alive in running.items():
            table.add_row(f"service {name}", "up" if alive else "down")
        console.print(table if states else "there is no lab; start one with: r1fleet lab up")
    sys.exit(0 if good else 1)


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@reported
def ssh(host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host as root; without one, open a shell.

    Example: r1fleet lab ssh t4 -- systemctl status ollama
    """
    words = identity.ssh_command(hosts.get(host).address, *command)
    os.execvp(words[0], words)


@lab.command()
@click.argument("host")
@reported
def start(host: str) -> None:
    """Switch a host on and wait until it answers on SSH.

    Example: r1fleet lab start t4
    """
    _become_root()
    with _alone():
        hosts.start(host)
    hosts.wait_ready([host])


@lab.command()
@click.argument("host")
@reported
def stop(host: str) -> None:
    """Shut a host down, as its own poweroff would; it stays down.

    Example: r1fleet lab stop t4
    """
    _become_root()
    with _alone():
        hosts.stop(host)


@lab.command()
@click.argument("host")
@reported
def cycle(host: str) -> None:
    """Cut a host's power, switch it on again and wait until it answers on SSH.

    Example: r1fleet lab cycle t4
    """
    _become_root()
    with _alone():
        hosts.cycle(host)
    hosts.wait_ready([host])


@lab.command()
@click.argument("host")
@reported
def reset(host: str) -> None:
    """Make a host bare again: another machine at its address, with another host key.

    Example: r1fleet lab reset pc1
    """
    _become_root()
    with _alone():
        hosts.reset(host)
    hosts.wait_ready([host])


@lab.command()
@click.argument("name")
@click.argument("switch", type=click.Choice(["on", "off"]))
@click.option("--host", help="a fault of this host; without it, one of the lab's services")
@reported
def fault(name: str, switch: str, host: str | None) -> None:
    """Switch a fault of the lab's services, or of one host, on or off.

    \b
    Examples: r1fleet lab fault registry-500 on
              r1fleet lab fault reboot-slow on --host t4

    The faults of a host are listed in lab/faults.yaml.
    """
    _become_root()
    if host:
        faults.set_fault(host, name, switch == "on")
        return
    try:
        services.set_fault(name, switch == "on")
    except ValueError as error:
        raise Refusal(str(error)) from error


@lab.command("wan")
@click.argument("rate", metavar="MBIT|off")
@reported
def set_wan(rate: str) -> None:
    """Let registry and artifact server together send so many Mbit/s to the hosts.

    Example: r1fleet lab wan 100
    """
    if rate != "off" and not (rate.isdecimal() and int(rate)):
        raise Refusal(f"{rate!r} is no rate; give Mbit/s as 100, or off")
    _become_root()
    wan.unlimited() if rate == "off" else wan.limit(int(rate))


@lab.command()
@click.argument("model", required=False)
@click.option("--mb", default=0, help="So many MB to fetch. Default: the small model alone.")
@reported
def publish(model: str | None, mb: int) -> None:
    """Put another model under a name of the public registry; without a name, take all away.

    Example: r1fleet lab publish deepseek-r1:1.5b --mb 40
    """
    _become_root()
    if model is None:
        overlay.clear()
    else:
        click.echo(json.dumps(overlay.add(model, mb)))


if __name__ == "__main__":
    lab()
