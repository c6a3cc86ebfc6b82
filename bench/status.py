"""What `r1fleet status` costs: `python bench/status.py [--rounds N]`, on the running lab.

Thirty hosts, interleaved in one run: `r1fleet status` against `ssh HOST true` on all of them at
once, both with the start of their processes; then the same with five of the thirty dead (they
answer no SYN). A lab of fewer hosts is asked several times over, under thirty names: one with
thirty is `r1fleet lab up --file bench/thirty.yaml`. Exits 1 when a bound is missed.
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

from noop import ROOT, Places, ssh_true

from lab.state import LabState

HOSTS = 30
DEAD = 5
RATIO_MOST = 3.0
CONNECT_TIMEOUT_S = 10  # pyinfra's


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
    with ExitStack() as stack:
        dead = {f"h{i}": stack.enter_context(dead_port()) for i in range(DEAD)}
        dead_s = statistics.median(status(named, places | dead) for _ in range(3))
    print(
        f"status {alive_s:.2f} s, parallel ssh true {statistics.median(baselines):.2f} s, "
        f"ratio {ratio:.2f} (at most {RATIO_MOST:g}; {HOSTS} names of {len(lab.hosts)} hosts, "
        f"{rounds} rounds)"
    )
    print(
        f"with {DEAD} of them dead: {dead_s:.2f} s, {dead_s - alive_s:.2f} s more "
        f"(at most one connect timeout, {CONNECT_TIMEOUT_S} s)"
    )
    return 0 if ratio <= RATIO_MOST and dead_s - alive_s <= CONNECT_TIMEOUT_S else 1


def status(named: list[str], places: Places) -> float:
    """Seconds for one status. Ends the bench unless just the dead hosts are unreachable."""
    with tempfile.TemporaryDirectory() as folder:
        inventory = Path(folder) / "lab.py"
        inventory.write_text(inventory_text(named, places))
        began = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).with_name("r1fleet")), "status", str(inventory), "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        took_s = time.monotonic() - began
    rows = json.loads(done.stdout)["hosts"].values() if done.stdout else []
    silent = {row["host"] for row in rows if row["verdict"] in ("unreachable", "failed")}
    dead = {name for name, (_, port) in places.items() if port != 22}
    if len(rows) != HOSTS or silent != dead:
        raise SystemExit(f"no answer from {silent ^ dead} of {len(rows)}: {done.stderr}")
    return took_s


@contextmanager
def dead_port() -> Iterator[tuple[str, int]]:
    """An address of this machine that answers no SYN: its queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(listener.getsockname()))
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
