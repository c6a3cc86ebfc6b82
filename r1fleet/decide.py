"""From a probe and settings to a size, or to a refusal before anything changes: pure."""

from dataclasses import replace

from r1fleet import catalog, paths, sticky
from r1fleet import settings_sources as sources
from r1fleet.alias import wanted as alias
from r1fleet.engine.wanted import ARCHIVE_ARCH
from r1fleet.hardware import hardware
from r1fleet.hostfacts import Probe
from r1fleet.lease import schema as held
from r1fleet.model.manifest import ModelWanted
from r1fleet.settings import Settings
from r1fleet.sizing import Choice, Sizing, choose, policy
from r1fleet.sticky import Decision
from r1fleet.verify.extras import ExtraWanted
from r1fleet.verify.fingerprint import SCHEMA
from r1fleet.verify.judge import SmokeWanted

# The formula was never further than this, or 1 %, below llama.cpp's own figure (bench/sizing.py).
FORMULA_DOUBT_MIB = 64


def refusals(settings: Settings, probe: Probe) -> list[tuple[str, str, str]]:
    """What must be put right on the host first, each as (what, why, what to do)."""
    found = []
    if not probe.ram_mib:  # every Linux has /proc/meminfo
        fix = "serve from a Linux host, see docs/windows-and-mac.md"
        found.append(("host", "it does not run Linux", fix))
    if not probe.is_root:
        found.append(("host", "the login is not root", "set _sudo = True for it in the inventory"))
    if probe.arch not in ARCHIVE_ARCH:
        found.append(
            (
                "host",
                f"there is no Ollama archive for {probe.arch or 'its processor'}",
                "use x86_64 or aarch64",
            )
        )
    if probe.rocm and settings.engine_url.startswith("http://") and not settings.bundle:
        why = "engine_url is plain http, and no setting pins the archive for AMD's cards"
        found.append(("engine", why, "use https"))
    if "systemd-run" not in probe.tools:
        found.append(("host", "it does not run systemd", "use a distribution with systemd"))
    for name, schema in (("state.json", probe.state.get("schema")), ("lease.json", held(probe))):
        if isinstance(schema, int) and schema > SCHEMA:
            why = f"{paths.STATE_DIR}/{name} has schema {schema}, this r1fleet knows {SCHEMA}"
            found.append(("host", why, "update r1fleet"))
    if probe.models.kind not in (None, "directory"):
        found.append(
            (
                "model directory",
                f"{settings.ollama_models} is a {probe.models.kind}",
                "move it away or set ollama_models to another path",
            )
        )
    recorded = probe.state.get("models_mount")
    path, mount = recorded if isinstance(recorded, list) and len(recorded) == 2 else (None, None)
    if path == settings.ollama_models and mount != probe.models.mount:
        found.append(
            (
                "model directory",
                f"{path} was on the mount {mount}, which is not there now",
                "mount it, or delete the line models_mount in /var/lib/r1fleet/state.json",
            )
        )
    return found


def size(settings: Settings, probe: Probe) -> Decision:
    """The size for a host: what was decided for it while nothing of it has changed, else anew."""
    return sticky.decide(hardware(probe), policy(settings), probe)


def smaller(settings: Settings, probe: Probe, less_mib: int) -> Sizing:
    """The size when each card holds so much less than the formula says."""
    wanted = policy(settings)
    return choose(hardware(probe), replace(wanted, reserve_mib=wanted.reserve_mib + less_mib))


def is_certain(settings: Settings, probe: Probe, choice: Choice) -> bool:
    """Whether the tag would be the same if the formula were wrong by all that it ever was."""
    doubt_mib = max(FORMULA_DOUBT_MIB, max(choice.needed_mib, default=0) // 100)
    found = smaller(settings, probe, doubt_mib).choice
    return found is not None and found.tag == choice.tag


def model_wanted(settings: Settings, choice: Choice) -> ModelWanted:
    """The model to bring to a host for a choice."""
    return _wanted(settings, f"{settings.model}:{choice.tag}", choice.model.digest)


def extras_wanted(settings: Settings, choice: Choice) -> tuple[ModelWanted, ...]:
    """The models to bring beside it, in the order of the setting."""
    chosen = f"{settings.model}:{choice.tag}"
    named = {_with_tag(name): name for name in settings.extra_models}
    return tuple(
        _wanted(settings, full, None if name in catalog.extras() else _known_digest(full))
        for full, name in named.items()
        if full != chosen
    )


def _with_tag(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _known_digest(name: str) -> str | None:
    return catalog.find_tag(name.partition(":")[2]).digest


def _wanted(settings: Settings, name: str, catalogue_digest: str | None) -> ModelWanted:
    source = settings.model_sources.get(name)
    return ModelWanted(
        name=name,
        registry_url=settings.registry_url,
        models_dir=settings.ollama_models,
        # Of a file its own checksum is the identity; the manifest is made on the host.
        digest=None if source else settings.model_digests.get(name),
        # A file comes from a server of its own, which the registry's login is not for.
        authorization=None if source else settings.registry_authorization,
        deep_check=settings.deep_check,
        source=sources.of(source) if source else None,
        catalogue_digest=catalogue_digest,
        rate_limit=settings.pull_rate_limit,
        via=settings.pull_via,
        engine_url=settings.base_url,
        proxies=settings.proxies,
        bundle=None if source else settings.bundle,
    )


def proof_wanted(
    settings: Settings, choice: Choice, digest: str, probe: Probe, weights: str | None = None
) -> SmokeWanted:
    """What a host must show at the end; `digest` is of the manifest that was delivered, `weights`
    of its largest file."""
    return SmokeWanted(
        base_url=settings.base_url,
        model=f"{settings.model}:{choice.tag}",
        digest=digest,
        placement=choice.placement,
        context=choice.context,
        keep_alive=settings.ollama_keep_alive,
        prompt=settings.smoke_prompt,
        expect=settings.smoke_expect,
        tokens_per_s_min=settings.tokens_per_s_min,
        next_smaller=choice.next_smaller,
        load_time_max_s=settings.load_time_max_s,
        thinks=catalog.is_r1(settings.model),
        nvidia=not probe.rocm,
        gpus=_engine_gpus(choice, probe),
        system=(settings.alias_system or "") if settings.alias else "",
        options=settings.alias_parameters if settings.alias else {},
        same_weights=tuple(sorted(alias.same_weights(probe.state, weights))) if weights else (),
    )


def _engine_gpus(choice: Choice, probe: Probe) -> int | None:
    """How many GPUs the engine has to find: all that nvidia-smi lists, or those it is shown. CUDA
    sees one MIG instance at a time, whatever is listed."""
    if choice.placement == "cpu" or probe.rocm or probe.driver.mig:
        return None
    return len(choice.gpus) if choice.only_these_gpus else len(probe.driver.gpus)


def extra_wanted(settings: Settings, choice: Choice, name: str, digest: str) -> ExtraWanted:
    """What a model beside R1 must show; `digest` is of the manifest that was delivered."""
    embedding = {_with_tag(extra.name) for extra in catalog.extras().values() if extra.embeds}
    return ExtraWanted(
        model=name, digest=digest, embeds=name in embedding, placement=choice.placement
    )
