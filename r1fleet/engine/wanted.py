"""What the engine of a host should be: pure, from settings and the size that was chosen."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from r1fleet import paths
from r1fleet.hostfacts import Probe
from r1fleet.managed import ManagedFile
from r1fleet.offload import kept_mib
from r1fleet.settings import Settings
from r1fleet.sizing import Choice, policy
from r1fleet.templates import render
from r1fleet.verify.judge import keep_alive_json

ARCHIVE_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Archive:
    """The engine's archive. `sha256` None: the line of sha256sum.txt beside it decides.

    + rocm_url: a second archive, unpacked over the first; for AMD's cards
    + mirror: what the URLs begin with where they lead to a mirror; `source` is then what they
      would begin with at the source, if it may be asked
    + bundle: the bundle here that it is sent from; the URLs are then of files on the host
    """

    version: str
    url: str
    sha256: str | None
    rocm_url: str | None = None
    mirror: str | None = None
    source: str | None = None
    bundle: str | None = None

    @property
    def key(self) -> str:
        """Name of its directory below ENGINE_ROOT."""
        words = [self.version, (self.sha256 or "")[:12], "rocm" if self.rocm_url else ""]
        return "-".join(word for word in words if word)


@dataclass(frozen=True)
class EngineWanted:
    """Everything of the engine that does not depend on which model is there already."""

    archive: Archive
    files: tuple[ManagedFile, ...]  # a change of one of these means a restart
    base_url: str  # where it answers once it is up
    proxies: Mapping[str, str]  # for the download
    drain_timeout_s: int = 0  # a restart waits so long for running requests


@dataclass(frozen=True)
class PreloadWanted:
    """The oneshot that loads the model after each start."""

    model: str
    files: tuple[ManagedFile, ...]
    timeout_s: int


def archive(settings: Settings, arch: str, *, rocm: bool = False) -> Archive:
    """The archive for an architecture as `uname -m` names it. Raises KeyError for others."""
    stem = f"{settings.engine_url}/v{settings.engine_version}/ollama-linux-{ARCHIVE_ARCH[arch]}"
    return Archive(
        settings.engine_version,
        f"{stem}.tar.zst",
        settings.engine_sha256,
        rocm_url=f"{stem}-rocm.tar.zst" if rocm else None,
    )


def archive_for(settings: Settings, choice: Choice, probe: Probe) -> Archive:
    """The archive of a host for a chosen size."""
    return archive(settings, probe.arch, rocm=bool(probe.rocm) and choice.placement != "cpu")


def packed(found: Archive, settings: Settings) -> Archive:
    """The same archive, as it lies on the host once it was sent from the bundle."""
    there = f"file://{paths.BUNDLE_DIR}/engine"
    return replace(
        found,
        url=f"{there}/{found.url.rpartition('/')[2]}",
        rocm_url=found.rocm_url and f"{there}/{found.rocm_url.rpartition('/')[2]}",
        bundle=settings.bundle,
    )


def engine(settings: Settings, choice: Choice, probe: Probe) -> EngineWanted:
    """The engine of a host for a chosen size. The unit waits for as many GPUs as it has now."""
    unit = render(
        "ollama.service",
        env_file=paths.ENGINE_ENV,
        gpu_count=len(probe.driver.gpus) if choice.placement == "gpu" else 0,
        wait_for_gpus=paths.WAIT_FOR_GPUS,
        models_dir=settings.ollama_models,
        engine_root=paths.ENGINE_ROOT,
    )
    environment = render(
        "ollama.env",
        variables=list(variables(settings, choice, probe)),
        # A change of driver changes this file, and so restarts Ollama, even if the run that
        # changed the driver was interrupted: GPUs are looked for once per start.
        driver=probe.driver.loaded or "none",
    )
    return EngineWanted(
        archive=archive_for(settings, choice, probe),
        files=(
            # Proxies may carry a password: not for everybody's eyes.
            ManagedFile(paths.ENGINE_ENV, environment, mode="640", owner="root:ollama"),
            ManagedFile(paths.WAIT_FOR_GPUS, render("wait-for-gpus"), mode="755"),
            ManagedFile(paths.ENGINE_UNIT, unit),
        ),
        base_url=settings.base_url,
        proxies=settings.proxies,
        drain_timeout_s=settings.drain_timeout_s,
    )


def preload(settings: Settings, model: str) -> PreloadWanted:
    """The preload unit for a model name such as "deepseek-r1:14b"."""
    keep_alive = keep_alive_json(settings.ollama_keep_alive)
    body = json.dumps({"model": model, "keep_alive": keep_alive, "stream": False})
    unit = render(
        "r1fleet-preload.service",
        model=model,
        preload=paths.PRELOAD,
        preload_body=paths.PRELOAD_BODY,
        base_url=settings.base_url,
        timeout_s=settings.load_time_max_s + 120,
    )
    return PreloadWanted(
        model=model,
        files=(
            ManagedFile(paths.PRELOAD_BODY, body + "\n"),
            ManagedFile(
                paths.PRELOAD,
                render("preload", timeout_s=settings.load_time_max_s),
                mode="755",
            ),
            ManagedFile(paths.PRELOAD_UNIT, unit),
        ),
        timeout_s=settings.load_time_max_s + 240,
    )


def variables(settings: Settings, choice: Choice, probe: Probe) -> Iterator[tuple[str, str]]:
    """The engine's environment. Context, parallel and cache type are always there: without them
    Ollama takes a context by VRAM tier and silently spills to the CPU."""
    planned: dict[str, object] = {
        "OLLAMA_HOST": settings.ollama_host,
        "OLLAMA_MODELS": settings.ollama_models,
        "OLLAMA_KEEP_ALIVE": settings.ollama_keep_alive,
        "OLLAMA_CONTEXT_LENGTH": choice.context,
        "OLLAMA_NUM_PARALLEL": choice.parallel,
        "OLLAMA_KV_CACHE_TYPE": choice.kv_type,
        "OLLAMA_SCHED_SPREAD": settings.ollama_sched_spread or choice.sched_spread or None,
        # What is planned for: one model more would push layers of both to the CPU.
        "OLLAMA_MAX_LOADED_MODELS": settings.ollama_max_loaded_models
        or 1 + len(settings.extra_models),
        "OLLAMA_MAX_QUEUE": settings.ollama_max_queue,
        "OLLAMA_FLASH_ATTENTION": settings.ollama_flash_attention,
        "OLLAMA_GPU_OVERHEAD": settings.ollama_gpu_overhead,
        "OLLAMA_LOAD_TIMEOUT": settings.ollama_load_timeout,
        "OLLAMA_ORIGINS": settings.ollama_origins,
        "OLLAMA_DEBUG": settings.ollama_debug or None,
        "OLLAMA_NOPRUNE": settings.ollama_noprune or None,
        "OLLAMA_NO_CLOUD": settings.ollama_no_cloud or None,
        # With offload llama.cpp fills the cards up to this margin: Ollama hands it on.
        "LLAMA_ARG_FIT_TARGET": kept_mib(choice.context, policy(settings))
        if choice.placement == "offload"
        else None,
        _visible_name(probe): _visible(choice, probe),
        "HTTPS_PROXY": settings.engine_proxy,
        "NO_PROXY": settings.no_proxy,
    }
    for name, value in planned.items():
        if name not in settings.extra_env and value is not None and value not in ("", ()):
            yield name, _text(value)
    yield from settings.extra_env.items()  # an empty one too: that is not the same as none


def _visible_name(probe: Probe) -> str:
    return "ROCR_VISIBLE_DEVICES" if probe.rocm else "CUDA_VISIBLE_DEVICES"


def _visible(choice: Choice, probe: Probe) -> str | None:
    """The UUIDs of the cards of the plan, where Ollama would take others as well ("-1": none)."""
    if not choice.only_these_gpus:
        return None
    if not choice.gpus:
        return "-1"
    if choice.mig_uuid:
        return choice.mig_uuid
    if probe.rocm:  # by number, in the order of the bus: not every card has a UUID there
        return ",".join(str(index) for index in sorted(choice.gpus))
    return ",".join(gpu.uuid for gpu in probe.driver.gpus if gpu.index in choice.gpus)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value)
    return str(value)
