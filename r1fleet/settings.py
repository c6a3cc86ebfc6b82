"""Every setting of a host, with its default and meaning. `python -m r1fleet.settings` prints them
as group_data/all.py."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from r1fleet import lock
from r1fleet import settings_check as check
from r1fleet.settings_adopt import AdoptSettings
from r1fleet.settings_alias import AliasSettings
from r1fleet.settings_bundle import BundleSettings
from r1fleet.settings_check import Bad
from r1fleet.settings_engine import Context, Line, Natural
from r1fleet.settings_fleet_gateway import FleetGatewaySettings
from r1fleet.settings_gateway import GatewaySettings
from r1fleet.settings_model import ModelSettings
from r1fleet.settings_remove import RemoveSettings
from r1fleet.settings_rollout import RolloutSettings, disagreements
from r1fleet.settings_sudo import SudoSettings
from r1fleet.settings_text import belongs_to_pyinfra, error_lines, group_data, merged
from r1fleet.settings_unit import UnitSettings
from r1fleet.settings_watch import WatchSettings

ModelName = Annotated[str, AfterValidator(check.model_name)]
Tag = Annotated[str, AfterValidator(check.tag)]
Names = Annotated[tuple[str, ...], BeforeValidator(check.names)]


class SettingsError(ValueError):
    """Settings that cannot be used; one line for each fault, in `lines`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Settings(
    ModelSettings,
    AliasSettings,
    RolloutSettings,
    WatchSettings,
    FleetGatewaySettings,
    GatewaySettings,
    BundleSettings,
    RemoveSettings,
    AdoptSettings,
    UnitSettings,
    SudoSettings,
):
    """The settings of one host. Flat, because pyinfra looks keys up whole and never merges."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=False)

    # Headings of group_data/all.py, by the first key below each.
    HEADINGS: ClassVar[Mapping[str, str]] = {
        "engine_version": "The engine: which Ollama",
        "ollama_models": "Ollama's own variables, by their names in lower case",
        "sudo_password": "Entering as a user who is not root (docs/hosts.md)",
        "unit_network": "The engine's unit: its network and limits (docs/security.md)",
        "adopt": "An Ollama that is there already (docs/adopt.md)",
        "driver_branch": "The NVIDIA driver",
        "rollout_canary": "The rollout: who goes first, when it stops, who is left alone",
        "watch": "The watch: a timer that looks after the host (docs/monitoring/README.md)",
        "alias": "The name that clients ask for, and changes of what serves it",
        "expose_unauthenticated": "Who reaches it, and the gateway for that (docs/gateway.md)",
        "pool_mixed": "A fleet gateway, on hosts of the group gateway (docs/fleet-gateway.md)",
        "serve": "A cache on the LAN, where the inventory has a group mirror (docs/mirror.md)",
        "bundle": "Without internet (docs/bundle.md)",
        "remove": "Taking r1fleet away again (docs/remove.md)",
        "model": "The model and its size",
        "registry_url": "Where models come from",
        "smoke_prompt": "The proof",
    }

    model: ModelName = Field(default="deepseek-r1", description="name in the registry")
    tag: str | None = Field(
        default=None,
        validate_default=True,
        description="a forced tag such as 14b; None: the best that fits",
    )
    context_min: Context = Field(
        default=16384, description="least context in tokens; R1 thinks long"
    )
    context_max: Context = Field(
        default=32768, validate_default=True, description="more than this is not taken"
    )
    size_order: Names = Field(
        default=("671b", "70b", "32b", "14b", "8b", "7b", "1.5b"),
        description="may be chosen, best first",
    )
    quantisations: Names = Field(
        default=("q4_K_M",), description="of a size, best first: q4_K_M, q8_0, fp16"
    )
    kv_cache_types: Names = Field(
        default=("f16", "q8_0"),
        description="cache types allowed, best first; ollama_kv_cache_type forces one",
    )
    placement: Literal["gpu", "offload", "cpu"] = Field(
        default="gpu",
        description="gpu: wholly on the GPUs or refused; offload: the rest in RAM; cpu: RAM alone",
    )
    offload_min_percent: Annotated[int, Field(ge=1, le=100)] = Field(
        default=50,
        description="of the layers, on GPUs, with offload; less: a warning if tag is forced",
    )
    no_gpu: Literal["refuse", "cpu"] = Field(
        default="refuse",
        description="where GPUs can hold no model: refuse, or cpu: as placement cpu there",
    )
    cpu_largest_tag: Tag = Field(
        default="7b",
        description="the largest on a CPU by placement or no_gpu; tag may force more",
    )
    vram_reserve_mib: Annotated[int, Field(ge=0)] = Field(
        default=0, description="MiB of each GPU that the plan leaves to others"
    )
    desktop: bool = Field(default=False, description="a screen hangs on it: reserve at least 1536")
    extra_models: Names = Field(
        default=(), description="loaded beside it, such as nomic-embed-text; room is kept for them"
    )

    smoke_prompt: Line = Field(
        default="Reply with exactly one word: READY", description="the question"
    )
    smoke_expect: Line = Field(default="READY", description="found in the answer, in any case")
    tokens_per_s_min: Annotated[float, Field(ge=0)] = Field(default=0.0, description="slower fails")
    load_time_max_s: Natural = Field(default=300, description="a longer load fails")
    verify_max_age_s: Annotated[int, Field(ge=0)] = Field(
        default=86400, description="an unchanged host is asked again after this"
    )
    report: Line | None = Field(
        default=None, description="JSON report, a path on the machine you run on"
    )

    @property
    def engine_stays_local(self) -> bool:
        """Whether loopback is all the network that the engine needs: nobody reaches it from
        elsewhere, and others fetch for it."""
        needs_more = self.pull_via == "api" or not self.ollama_no_cloud
        return self.unit_network == "auto" and self.loopback and not needs_more

    @field_validator("size_order", "quantisations", "kv_cache_types", "extra_models")
    @classmethod
    def _check_names(cls, names: tuple[str, ...], about: ValidationInfo) -> tuple[str, ...]:
        known = check.known_names(names, str(about.field_name))
        without_flash = about.data.get("ollama_flash_attention") is False
        if about.field_name == "kv_cache_types" and without_flash and "f16" not in known:
            raise Bad("needs flash attention, which is off", "allow f16 or leave that out")
        return known

    @field_validator("tag")
    @classmethod
    def _check_tag(cls, tag: str | None, known: ValidationInfo) -> str | None:
        return check.tag_of(str(known.data.get("model", "deepseek-r1")), tag)

    @field_validator("context_max")
    @classmethod
    def _agree_with_least(cls, largest: int, known: ValidationInfo) -> int:
        least = known.data.get("context_min", largest)
        if least > largest and known.data.get("ollama_context_length") is None:
            raise Bad(f"is below context_min ({least})", "raise it or lower context_min")
        return largest


def read(host: str, data: Mapping[str, object]) -> Settings:
    """The settings of a host from its inventory data; what is pyinfra's own there is passed over.

    Raises SettingsError with every fault.
    """
    try:
        return _parse(data)
    except ValidationError as error:
        lines = error_lines(error, Settings.model_fields)
        raise SettingsError([f"{host}: {line}" for line in lines]) from None


def read_all(hosts: Mapping[str, Mapping[str, object]]) -> dict[str, Settings]:
    """The settings of all hosts by name.

    Raises SettingsError with every fault of every host; one that several share is one line.
    """
    found: dict[str, Settings] = {}
    faults: dict[str, list[str]] = {}
    for host, data in hosts.items():
        try:
            found[host] = _parse(data)
        except ValidationError as error:
            for line in error_lines(error, Settings.model_fields):
                faults.setdefault(line, []).append(host)
    if faults:
        raise SettingsError([f"{merged(names)}: {line}" for line, names in faults.items()])
    if lines := disagreements(found):
        raise SettingsError(lines)
    return found


def check_canaries(settings: Mapping[str, Settings], inventory: Collection[str]) -> None:
    """Raises SettingsError when rollout_canary names a host that the inventory does not have."""
    named = next((one.rollout_canary for one in settings.values()), 0)
    unknown = [] if isinstance(named, int) else [name for name in named if name not in inventory]
    if unknown:
        near = get_close_matches(unknown[0], inventory, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name hosts of the inventory"
        raise SettingsError([f"rollout_canary: names no host {unknown[0]!r}; {hint}"])


def locked(settings: Mapping[str, Settings]) -> dict[str, Settings]:
    """The settings with the digests of the lock file, where they name none themselves.

    Raises LockError.
    """
    pins = {name: entry.digest for name, entry in lock.read().items()}
    if not pins:
        return dict(settings)
    return {
        host: member.model_copy(update={"model_digests": pins | member.model_digests})
        for host, member in settings.items()
    }


def _parse(data: Mapping[str, object]) -> Settings:
    own = {
        key: value
        for key, value in data.items()
        if key in Settings.model_fields or not belongs_to_pyinfra(key)
    }
    return Settings.model_validate(own)


if __name__ == "__main__":
    print(group_data(Settings, Settings.HEADINGS), end="")
