"""Every setting of a host, with its default and meaning. `python -m r1fleet.settings` prints them
as group_data/all.py."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from r1fleet import settings_check as check
from r1fleet.settings_check import Bad
from r1fleet.settings_driver import DriverSettings, Sha256, Url
from r1fleet.settings_text import belongs_to_pyinfra, error_lines, group_data, merged

Version = Annotated[str, AfterValidator(check.version)]
Duration = Annotated[str, BeforeValidator(check.duration)]
ServerUrl = Annotated[str, AfterValidator(check.server_url)]
ModelName = Annotated[str, AfterValidator(check.model_name)]
Tag = Annotated[str, AfterValidator(check.tag)]
Line = Annotated[str, AfterValidator(check.one_line)]
Natural = Annotated[int, Field(ge=1)]
Context = Annotated[int, Field(ge=1024, le=131072)]
Rate = Annotated[str, BeforeValidator(check.rate)]
DEFAULT_HOST = f"127.0.0.1:{check.DEFAULT_PORT}"


class SettingsError(ValueError):
    """Settings that cannot be used; one line for each fault, in `lines`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Settings(DriverSettings):
    """The settings of one host. Flat, because pyinfra looks keys up whole and never merges."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Headings of group_data/all.py, by the first key below each.
    HEADINGS: ClassVar[Mapping[str, str]] = {
        "engine_version": "The engine: which Ollama",
        "ollama_models": "Ollama's own variables, by their names in lower case",
        "driver_branch": "The NVIDIA driver",
        "model": "The model and its size",
        "registry_url": "Where models come from",
        "smoke_prompt": "The proof",
    }

    engine_version: Version = Field(default="0.32.15", description="the Ollama release")
    engine_sha256: Sha256 | None = Field(
        default=None, description="of its archive; None: the line of sha256sum.txt beside it"
    )
    engine_url: Url = Field(
        default="https://github.com/ollama/ollama/releases/download",
        description="where releases lie",
    )

    ollama_models: Annotated[str, AfterValidator(check.model_directory)] = Field(
        default="/var/lib/ollama/models", description="model directory"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="the port alone, folded into ollama_host"
    )
    ollama_host: str = Field(
        default=DEFAULT_HOST,
        validate_default=True,
        description="address to listen on; 0.0.0.0: everywhere",
    )
    ollama_origins: Annotated[tuple[str, ...], BeforeValidator(check.origins)] = Field(
        default=(),
        description="browser origins allowed besides local ones, each with its scheme, or *",
    )
    ollama_keep_alive: Duration = Field(
        default="-1", description="how long a model stays loaded: 5m, 300 (s), negative for ever"
    )
    ollama_debug: Annotated[int, BeforeValidator(check.debug), Field(ge=0, le=2)] = Field(
        default=0, description="0, 1 (debug) or 2 (trace)"
    )
    ollama_num_parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="requests answered at once; each has the whole context"
    )
    ollama_max_queue: Natural = Field(default=512, description="requests that may wait")
    ollama_context_length: Context | None = Field(
        default=None,
        description="tokens; None: the largest from context_min to context_max that fits",
    )
    ollama_kv_cache_type: Literal["f16", "q8_0", "q4_0"] | None = Field(
        default=None, description="f16, q8_0 or q4_0; None: f16 where it fits, else q8_0"
    )
    ollama_flash_attention: bool | None = Field(
        default=None, description="None: where the GPU has it"
    )
    ollama_max_loaded_models: Natural | None = Field(
        default=None, description="None: 1, the one that was planned"
    )
    ollama_sched_spread: bool | None = Field(
        default=None, description="spread over all GPUs; None: where one is not enough"
    )
    ollama_gpu_overhead: Annotated[int, Field(ge=0)] = Field(
        default=0, description="bytes of each GPU that are left to others"
    )
    ollama_load_timeout: Duration = Field(
        default="5m", description="a load that stalls so long is ended"
    )
    ollama_noprune: bool = Field(
        default=False, description="keep unused blobs when the engine starts"
    )
    ollama_no_cloud: bool = Field(default=True, description="no remote inference, no web search")
    https_proxy: Annotated[str, AfterValidator(check.proxy)] | None = Field(
        default=None, description="proxy for downloads on the host, http://host:port"
    )
    no_proxy: Line | None = Field(
        default=None, description="hosts that are reached without the proxy"
    )
    extra_env: dict[str, str] = Field(default={}, description="further variables of the engine")

    model: ModelName = Field(default="deepseek-r1", description="name in the registry")
    tag: Tag | None = Field(
        default=None, description="a forced tag such as 14b; None: the best that fits"
    )
    context_min: Context = Field(
        default=16384, description="least context in tokens; R1 thinks long"
    )
    context_max: Context = Field(
        default=32768, validate_default=True, description="more than this is not taken"
    )
    no_gpu: Literal["refuse", "cpu"] = Field(
        default="refuse", description="hosts without a usable GPU"
    )
    cpu_largest_tag: Tag = Field(default="7b", description="the largest to run on a CPU")

    registry_url: ServerUrl = Field(default="https://registry.ollama.ai", description="or a mirror")
    pull_via: Literal["fetch", "api"] = Field(
        default="fetch", description="fetch: a downloader that resumes; api: Ollama's own pull"
    )
    pull_rate_limit: Rate | None = Field(
        default=None, description="bytes per second of each host, such as 20M"
    )
    model_digests: Annotated[dict[str, str], AfterValidator(check.digests)] = Field(
        default={}, description='pinned: {"deepseek-r1:14b": "sha256:..."}'
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

    @field_validator("extra_env", mode="before")
    @classmethod
    def _check_environment(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key.upper(): key for key in cls.model_fields if key.startswith("ollama_")}
        own |= {"OLLAMA_PORT": "port", "HTTPS_PROXY": "https_proxy", "NO_PROXY": "no_proxy"}
        return check.environment(value, own)

    @field_validator("ollama_host")
    @classmethod
    def _fold_port(cls, host: str, known: ValidationInfo) -> str:
        # The default host stands in group_data/all.py: its port contradicts no other.
        is_default = host == DEFAULT_HOST
        port = known.data.get("port")
        return check.host_and_port(host.partition(":")[0] if is_default else host, port)

    @field_validator("ollama_flash_attention")
    @classmethod
    def _agree_with_cache(cls, flash: bool | None, known: ValidationInfo) -> bool | None:
        cache_type = known.data.get("ollama_kv_cache_type")
        if flash is False and cache_type in ("q8_0", "q4_0"):
            raise Bad(f"does not go with a {cache_type} cache", "leave one of them out")
        return flash

    @field_validator("context_max")
    @classmethod
    def _agree_with_least(cls, largest: int, known: ValidationInfo) -> int:
        least = known.data.get("context_min", largest)
        if least > largest and known.data.get("ollama_context_length") is None:
            raise Bad(f"is below context_min ({least})", "raise it or lower context_min")
        return largest

    @property
    def _listen(self) -> tuple[str, str]:
        host, _, port = self.ollama_host.rpartition(":")
        return host.strip("[]"), port

    @property
    def loopback(self) -> bool:
        """Whether only the host itself can reach the engine."""
        host = self._listen[0]
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether others can reach the engine, which asks nobody for a password."""
        return not self.loopback

    @property
    def proxies(self) -> dict[str, str]:
        """The environment of downloads and of the package manager."""
        names = {"https_proxy": self.https_proxy, "http_proxy": self.https_proxy}
        names["no_proxy"] = self.no_proxy
        return {name: value for name, value in names.items() if value and self.https_proxy}

    @property
    def base_url(self) -> str:
        """The engine as the host itself reaches it, http://host:port."""
        host, port = self._listen
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
    return found


def _parse(data: Mapping[str, object]) -> Settings:
    own = {
        key: value
        for key, value in data.items()
        if key in Settings.model_fields or not belongs_to_pyinfra(key)
    }
    return Settings.model_validate(own)


if __name__ == "__main__":
    print(group_data(Settings, Settings.HEADINGS), end="")
