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


# What wait-for-gpus says when it gives up.
NO_GPUS = "GPUs can be used"


@dataclass(frozen=True)
class Sandbox:
    """The two profiles of the unit's hardening (engine/sandbox.py).

    + gpus: that the engine has to find from inside; 0 asks for none
    """

    full: ManagedFile
    lesser: ManagedFile
    gpus: int

    def wanted(self, found: Mapping[str, str]) -> ManagedFile:
        """The lesser one where that very one was found to be needed (path -> sha256)."""
        return self.lesser if found.get(self.lesser.path) == self.lesser.sha256 else self.full


@dataclass(frozen=True)
class EngineWanted:
    """Everything of the engine that does not depend on which model is there already."""

    archive: Archive
    files: tuple[ManagedFile, ...]  # a change of one of these means a restart
    base_url: str  # where it answers once it is up
    proxies: Mapping[str, str]  # for the download
    sandbox: Sandbox
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
    box = sandbox(settings, choice, probe)
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
            box.wanted(probe.files),
        ),
        base_url=settings.base_url,
        proxies=settings.proxies,
        sandbox=box,
        drain_timeout_s=settings.drain_timeout_s,
    )


def sandbox(settings: Settings, choice: Choice, probe: Probe) -> Sandbox:
    """The hardening of the unit, in both profiles."""
    values = {
        "models_dir": settings.ollama_models,
        "models_in_home": settings.ollama_models.startswith("/home/"),
        "home": paths.ENGINE_HOME,
        "devices": _device_groups(choice, probe),
        "jit": bool(probe.rocm),
        "local_only": settings.engine_stays_local,
        "limits": settings.unit_limits,
    }
    path, template = paths.ENGINE_HARDENING, "ollama-hardening.conf"
    full = ManagedFile(path, render(template, lesser=False, inputs="", **values))
    inputs = (
        f"driver {probe.driver.loaded or 'none'}, kernel {probe.kernel}, engine"
        f" {archive_for(settings, choice, probe).key}, full profile {full.sha256[:12]}"
    )
    lesser = ManagedFile(path, render(template, lesser=True, inputs=inputs, **values))
    return Sandbox(full, lesser, _gpus_inside(choice, probe))


def _device_groups(choice: Choice, probe: Probe) -> tuple[str, ...]:
    """What of /proc/devices the engine opens."""
    if choice.placement == "cpu":
        return ()
    return ("kfd", "drm") if probe.rocm else ("nvidia*", "drm")


def _gpus_inside(choice: Choice, probe: Probe) -> int:
    """How many the engine has to find; CUDA sees one MIG instance at a time."""
    if choice.placement == "cpu":
        return 0
    if probe.driver.mig:
        return 1
    every = len(probe.rocm) or len(probe.driver.gpus)
    return len(choice.gpus) if choice.only_these_gpus else every


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
