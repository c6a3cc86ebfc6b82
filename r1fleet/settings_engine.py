"""The settings of the engine: which Ollama, and its own variables."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from r1fleet import holes
from r1fleet import settings_check as check
from r1fleet.settings_check import Bad

Version = Annotated[str, AfterValidator(holes.check)]
Sha256 = Annotated[str, AfterValidator(check.sha256)]
Duration = Annotated[str, BeforeValidator(check.duration)]
Url = Annotated[str, AfterValidator(check.url)]
Line = Annotated[str, AfterValidator(check.one_line)]
Natural = Annotated[int, Field(ge=1)]
Context = Annotated[int, Field(ge=1024, le=131072)]
DEFAULT_HOST = f"127.0.0.1:{check.DEFAULT_PORT}"


class EngineSettings(BaseModel):
    """What r1fleet.settings.Settings has of the engine."""

    # Settings alone is ever made an object of; the parts below it need no validator of their own.
    model_config = ConfigDict(defer_build=True)

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
        description="address to listen on; others than loopback need expose open",
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
        default=None, description="None: the planned one and extra_models"
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

    @field_validator("engine_url")
    @classmethod
    def _check_engine_url(cls, url: str, known: ValidationInfo) -> str:
        check.over_tls(url, known.data.get("engine_sha256"), "engine_sha256")
        return url

    @field_validator("extra_env", mode="before")
    @classmethod
    def _check_environment(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key.upper(): key for key in cls.model_fields if key.startswith("ollama_")}
        own |= {"OLLAMA_PORT": "port", "HTTPS_PROXY": "https_proxy", "NO_PROXY": "no_proxy"}
        own["HTTP_PROXY"] = "https_proxy"
        return check.environment(value, own)

    @field_validator("https_proxy")
    @classmethod
    def _keep_from_engine(cls, proxy: str | None, known: ValidationInfo) -> str | None:
        if proxy and check.has_login(proxy) and known.data.get("ollama_no_cloud") is False:
            raise Bad(
                "has a login, and with ollama_no_cloud False the engine, which logs it, needs it",
                "use a proxy without login, or leave ollama_no_cloud True",
            )
        return proxy

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

    @property
    def _listen(self) -> tuple[str, str]:
        host, _, port = self.ollama_host.rpartition(":")
        return host.strip("[]"), port

    @property
    def loopback(self) -> bool:
        """Whether only the host itself can reach the engine."""
        return check.is_loopback(self.ollama_host)

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
    def engine_proxy(self) -> str | None:
        """The proxy for the engine itself, which writes it into its journal: none with a login."""
        has_login = self.https_proxy and check.has_login(self.https_proxy)
        return None if has_login else self.https_proxy

    @property
    def engine_address(self) -> tuple[str, int]:
        """Where the host itself reaches the engine."""
        host, port = self._listen
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)

    @property
    def base_url(self) -> str:
        """The engine as the host itself reaches it, http://host:port."""
        host, port = self.engine_address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
