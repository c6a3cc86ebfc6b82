"""What a second run costs: `python bench/noop.py [--rounds N]`, on the running, converged lab.

One run measures everything, interleaved: a whole `pyinfra ... deploy.py -y` that changes nothing
against `ssh HOST true` on all hosts at once, both with the start of their processes; then the
same through a proxy that adds 50 ms each way. Counts the remote commands per host and run, and
the memory of the control process. Exits 1 when a bound of the README is missed.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from lab.state import LabState

ROOT = Path(__file__).parent.parent
RATIO_MOST = 2.5
COMMANDS_MOST = 3
MEMORY_MOST_MB = 300
DELAY_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    lab = LabState.load()
    if lab is None:
        print("the lab is not running; start it with: r1fleet lab up", file=sys.stderr)
        return 2
    hosts = {name: (host.address, 22) for name, host in lab.hosts.items() if host.listed}
    ratio = measure("plain", lab, hosts, rounds)
    with Proxies(hosts) as delayed:
        measure("50 ms each way", lab, delayed, max(3, rounds // 2))
    commands = count_commands(hosts)
    memory_mb = memory_of_a_run(hosts)
    print(f"remote commands per host and run: {commands} (at most {COMMANDS_MOST})")
    print(f"memory of the control process at {len(hosts)} hosts: {memory_mb:.0f} MB")
    good = ratio <= RATIO_MOST and commands <= COMMANDS_MOST and memory_mb < MEMORY_MOST_MB
    return 0 if good else 1


Places = dict[str, tuple[str, int]]


def measure(label: str, lab: LabState, hosts: Places, rounds: int) -> float:
    """Median seconds of both, and their ratio round by round (median)."""
    runs, baselines = [], []
    noop(hosts)  # warm both
    ssh_true(lab, hosts)
    for _ in range(rounds):
        baselines.append(ssh_true(lab, hosts))
        runs.append(noop(hosts))
    ratio = statistics.median(a / b for a, b in zip(runs, baselines, strict=True))
    print(
        f"{label}: second run {statistics.median(runs):.2f} s, parallel ssh true "
        f"{statistics.median(baselines):.2f} s, ratio {ratio:.2f} "
        f"({len(hosts)} hosts, {rounds} rounds)"
    )
    return ratio


def ssh_true(lab: LabState, hosts: Places) -> float:
    """Seconds for `ssh HOST true` on all hosts at once."""
    began = time.monotonic()
    running = [
        subprocess.Popen(
            ["ssh", "-F", "none", "-i", str(lab.key), "-o", "IdentitiesOnly=yes"]
            + ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
            + ["-o", "LogLevel=ERROR", "-p", str(port), f"root@{address}", "true"]
        )
        for address, port in hosts.values()
    ]
    if any(process.wait() for process in running):
        raise SystemExit("ssh true failed on a host")
    return time.monotonic() - began


def noop(hosts: Places) -> float:
    """Seconds for a whole run that must change nothing."""
    began = time.monotonic()
    run_deploy(hosts)
    return time.monotonic() - began


def count_commands(hosts: Places) -> int:
    """The most remote commands that any host got in one run, from pyinfra's debug log."""
    log, _ = run_deploy(hosts, "--debug")
    names = re.findall(r"Running command on (\S+):", log)
    if not names:
        raise SystemExit("no command was counted: has pyinfra's debug log changed?")
    return max(names.count(name) for name in set(names))


def memory_of_a_run(hosts: Places) -> float:
    """Peak resident memory of the control process in MB (10^6 bytes)."""
    return run_deploy(hosts)[1]


def run_deploy(hosts: Places, *flags: str) -> tuple[str, float]:
    """Run the main job: its log and its peak memory in MB. Ends the bench if it changed a host."""
    with tempfile.TemporaryDirectory() as folder:
        inventory, report = Path(folder) / "lab.py", Path(folder) / "report.json"
        log = Path(folder) / "log"
        inventory.write_text(inventory_text(hosts))
        with log.open("w") as stream:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("pyinfra")), str(inventory), "deploy.py"]
                + ["-y", "--data", f"report={report}", *flags],
                cwd=ROOT,
                stdout=stream,
                stderr=stream,
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        text = log.read_text()
        told = json.loads(report.read_text()) if report.exists() else {"hosts": {}}
        verdicts = {row["verdict"] for row in told["hosts"].values()}
    if process.returncode or verdicts != {"as wanted"}:
        raise SystemExit(f"not a run without changes ({verdicts}):\n{text}")
    return text, usage.ru_maxrss * 1024 / 1e6


def inventory_text(hosts: Places) -> str:
    """The lab's inventory with other addresses."""
    return f"""
import runpy
_hosts, _data = runpy.run_path({str(ROOT / "inventories" / "lab.py")!r})["lab"]
_places = {hosts!r}
lab = (
    [
        (name, {{**data, "ssh_hostname": _places[name][0], "ssh_port": _places[name][1]}})
        for name, data in _hosts
    ],
    {{**_data, "ssh_known_hosts_file": "/dev/null", "ssh_strict_host_key_checking": "no"}},
)
"""


class Proxies:
    """One delaying TCP proxy per host on 127.0.0.1, in a thread of its own."""

    def __init__(self, hosts: Places) -> None:
        self.targets = hosts
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Places:
        self.thread.start()
        return {
            name: asyncio.run_coroutine_threadsafe(self._serve(*target), self.loop).result()
            for name, target in self.targets.items()
        }

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _end(self) -> None:
        """Let what is under way end: the hosts close their side soon after the client."""
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=10)

    async def _serve(self, address: str, port: int) -> tuple[str, int]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(address, port)
            await asyncio.gather(delay(reader, far_writer), delay(far_reader, writer))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        here: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return here


async def delay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on, each DELAY_S after it came, without slowing the flow."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(65536):
        loop.call_later(DELAY_S, writer.write, data)
    loop.call_later(DELAY_S, writer.close)


if __name__ == "__main__":
    sys.exit(main())
