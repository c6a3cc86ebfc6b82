"""llama.cpp's own word on how it would place a model: the oracle that sizing is tested against.

llama-server's --fit runs on devices that ggml-rpc-server makes up, over a sparse file of the true
shape; it reads shapes only and is ended before it loads anything.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from lab.engine.build import EngineDir

TIMEOUT_S = 180.0
_PROJECTED = re.compile(r"projected to use (\d+) MiB")
_DEVICE = re.compile(r"- RPC(\d+) .*\(\s*\d+ =\s*(\d+) \+\s*(\d+) \+\s*(\d+)\)")
_LAYERS = re.compile(r"- RPC(\d+) .*:\s+(\d+) layers,")


class OracleError(RuntimeError):
    """llama-server gave no projection; the message holds its output."""


@dataclass(frozen=True)
class Device:
    """What one device holds, MiB, each rounded down by llama.cpp."""

    model: int = 0
    kv: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        return self.model + self.kv + self.compute


@dataclass(frozen=True)
class Projection:
    """The placement.

    + projected_mib: "projected to use", all layers on the devices
    + devices: what each holds then
    + layers: of each device after llama.cpp moved some to the host; empty when all fit
    """

    projected_mib: int
    devices: tuple[Device, ...]
    layers: tuple[int, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing had to be moved."""
        return not self.layers


def project(
    engine: EngineDir,
    shape: Path,
    free_mib: Sequence[int],
    *,
    context: int,
    parallel: int,
    batch: int,
    kv_type: str = "f16",
    flash: bool = True,
) -> Projection:
    """How llama.cpp places a model over devices with so much free memory, asked as Ollama does.

    Raises OracleError.
    """
    words = [str(engine.simgpu / "llama-server"), "--model", str(shape), "--fit", "on"]
    words += ["-c", str(context * parallel), "-np", str(parallel), "-b", str(batch)]
    words += ["-ub", str(batch), "--flash-attn", "on" if flash else "off", "--no-warmup"]
    words += ["-lv", "4", "--no-log-prefix", "--no-log-timestamps"]
    if kv_type != "f16":
        words += ["--cache-type-k", kv_type, "--cache-type-v", kv_type]
    with ExitStack() as stack:
        addresses = [stack.enter_context(_device(engine, mib)) for mib in free_mib]
        words += ["--rpc", ",".join(addresses), "--port", str(_free_port())]
        server = subprocess.Popen(
            words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
        )
        assert server.stderr
        watchdog = Timer(TIMEOUT_S, server.kill)
        watchdog.start()
        try:
            return _read(server.stderr, len(free_mib))
        finally:
            watchdog.cancel()
            server.kill()
            server.wait()
            server.stderr.close()


def _read(lines: Iterator[str], count: int) -> Projection:
    """The projection from llama-server's log, read no further than it needs."""
    seen: list[str] = []
    devices, layers, projected = [Device()] * count, [0] * count, None
    moved = False
    for line in lines:
        seen.append(line)
        if match := _PROJECTED.search(line):
            projected = int(match[1])
        elif projected is None and (match := _DEVICE.search(line)):
            devices[int(match[1])] = Device(int(match[2]), int(match[3]), int(match[4]))
        elif match := _LAYERS.search(line):
            layers[int(match[1])], moved = int(match[2]), True
        if line.startswith("common_fit_params: ") and projected is not None:
            return Projection(projected, tuple(devices), tuple(layers) if moved else ())
    raise OracleError("no projection: " + "".join(seen[-20:]))


@contextmanager
def _device(engine: EngineDir, free_mib: int) -> Iterator[str]:
    """A server that stands for a card with so much memory; yields its address."""
    port = _free_port()
    server = subprocess.Popen(
        [str(engine.simgpu / "ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ
        | {"LD_PRELOAD": str(engine.simgpu / "physpages.so"), "R1LAB_MEMORY_MIB": str(free_mib)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.005)
        else:
            return
    raise OracleError(f"the device server on port {port} does not answer")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
