"""What `r1fleet status` costs: `python bench/status.py [--rounds N]`, on a running, served lab.

Thirty hosts, interleaved in one run: `r1fleet status` against `ssh HOST true` on all of them at
once, both with the start of their processes; then the same, and a run of deploy.py that changes
nothing, with five of the thirty dead (they answer no SYN) and one hung (it takes the connection and
says nothing). A lab of fewer hosts is asked several times over, under thirty names: one with thirty
is `r1fleet lab up --file bench/thirty.yaml`. Exits 1 when a bound is missed.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from noop import ROOT, Places, ssh_true

from lab.state import LabState

INVENTORY, REPORT = "lab.py", "report.json"
HOSTS = 30
DEAD = 5
RATIO_MOST = 3.0
CONNECT_TIMEOUT_S = 10  # pyinfra's
SPARE_S = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    lab = LabState.load()
    if lab is None:
        print("the lab is not running; start it with: r1fleet lab up", file=sys.stderr)
        return 2
    named = list(islice(cycle(name for name, host in lab.hosts.items() if host.listed), HOSTS))
    places = {f"h{i}": (lab.hosts[name].address, 22) for i, name in enumerate(named)}
    looks, baselines = [], []
    status(named, places)  # warm both
    ssh_true(lab, places)
    for _ in range(rounds):
        baselines.append(ssh_true(lab, places))
        looks.append(status(named, places))
    ratio = statistics.median(a / b for a, b in zip(looks, baselines, strict=True))
    alive_s = statistics.median(looks)
    print(
        f"status {alive_s:.2f} s, parallel ssh true {statistics.median(baselines):.2f} s, "
        f"ratio {ratio:.2f} (at most {RATIO_MOST:g}; {HOSTS} names of {len(lab.hosts)} hosts, "
        f"{rounds} rounds)"
    )
    healthy_s = statistics.median(deploy(named, places) for _ in range(3))
    with ExitStack() as stack:
        silent = {f"h{i}": stack.enter_context(dead_port()) for i in range(DEAD)}
        silent |= {f"h{DEAD}": stack.enter_context(hung_port())}
        looked_s = statistics.median(status(named, places | silent) for _ in range(3))
        ran_s = statistics.median(deploy(named, places | silent) for _ in range(3))
    print(
        f"{DEAD} of them dead, one hung: status {looked_s:.2f} s, {looked_s - alive_s:.2f} s more;"
        f" a run {ran_s:.2f} s, {ran_s - healthy_s:.2f} s more"
        f" (at most a connect timeout, {CONNECT_TIMEOUT_S} s, and {SPARE_S} s)"
    )
    more_s = max(looked_s - alive_s, ran_s - healthy_s)
    return 0 if ratio <= RATIO_MOST and more_s <= CONNECT_TIMEOUT_S + SPARE_S else 1


def status(named: list[str], places: Places) -> float:
    """Seconds for one status. Ends the bench unless just the dead hosts are unreachable."""
    rows, took_s, said = run(named, places, "r1fleet", "status", INVENTORY, "--json")
    check(rows, places, said)
    return took_s


def deploy(named: list[str], places: Places) -> float:
    """Seconds for one run that changes nothing, with the same check."""
    rows, took_s, said = run(
        named, places, "pyinfra", INVENTORY, "deploy.py", "-y", "--data", f"report={REPORT}"
    )
    check(rows, places, said)
    return took_s


def run(named: list[str], places: Places, *words: str) -> tuple[dict[str, Any], float, str]:
    """The rows of a command by host, the seconds it took, and what it said of others."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / INVENTORY).write_text(inventory_text(named, places))
        program = str(Path(sys.executable).with_name(words[0]))
        argv = [word.replace(REPORT, f"{folder}/{REPORT}") for word in words[1:]]
        argv = [f"{folder}/{word}" if word == INVENTORY else word for word in argv]
        began = time.monotonic()
        done = subprocess.run(
            [program, *argv], cwd=ROOT, capture_output=True, text=True, check=False
        )
        took_s = time.monotonic() - began
        report = Path(folder) / REPORT
        text = report.read_text() if report.exists() else done.stdout
    try:
        return json.loads(text)["hosts"], took_s, done.stdout + done.stderr
    except ValueError:
        raise SystemExit(f"no report: {done.stdout}{done.stderr}") from None


def check(rows: dict[str, Any], places: Places, said: str) -> None:
    """Ends the bench unless just the silent hosts are unreachable and nothing was changed."""
    silent = {name for name, row in rows.items() if row["verdict"] != "as wanted"}
    wrong = silent ^ {name for name, (_, port) in places.items() if port != 22}
    if len(rows) != HOSTS or wrong:
        found = {name: (rows[name]["verdict"], rows[name].get("reason")) for name in wrong}
        raise SystemExit(f"{len(rows)} rows, not as it should be: {found}\n{said}")
    hung = f"h{DEAD}"
    if hung in silent and "said nothing of SSH" not in said:
        raise SystemExit(f"nothing was said of {hung}: {said}")


@contextmanager
def dead_port() -> Iterator[tuple[str, int]]:
    """An address of this machine that answers no SYN: its queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener.getsockname()


@contextmanager
def hung_port() -> Iterator[tuple[str, int]]:
    """An address of this machine that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()


def inventory_text(named: list[str], places: Places) -> str:
    """The lab's inventory under other names."""
    return f"""
import runpy
_hosts, _data = runpy.run_path({str(ROOT / "inventories" / "lab.py")!r})["lab"]
_hosts = dict(_hosts)
_places = {places!r}
lab = (
    [
        (name, {{**_hosts[host], "ssh_hostname": address, "ssh_port": port}})
        for host, (name, (address, port)) in zip({named!r}, _places.items())
    ],
    {{**_data, "ssh_known_hosts_file": "/dev/null", "ssh_strict_host_key_checking": "no"}},
)
"""


if __name__ == "__main__":
    sys.exit(main())
