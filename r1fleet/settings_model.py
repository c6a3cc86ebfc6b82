"""The settings of models and where they come from; part of Settings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from r1fleet import settings_check as check
from r1fleet import settings_sources as sources
from r1fleet.settings_driver import DriverSettings
from r1fleet.settings_engine import Line, Url

Rate = Annotated[str, BeforeValidator(check.rate)]


class ModelSettings(DriverSettings):
    """How models are delivered. `model` and what decides its size are in Settings itself."""

    registry_url: Url = Field(default="https://registry.ollama.ai", description="or a mirror")
    registry_login_file: Line | None = Field(
        default=None,
        description="a local file with user:password, or a token, in one line",
    )
    registry_login_command: Line | None = Field(
        default=None, description="or a local command that prints it, such as: pass show registry"
    )
    pull_via: Literal["fetch", "api"] = Field(
        default="fetch", description="fetch: a downloader that resumes; api: Ollama's own pull"
    )
    pull_rate_limit: Rate | None = Field(
        default=None, description="bytes per second of each host, such as 20M"
    )
    model_digests: Annotated[dict[str, str], AfterValidator(check.digests)] = Field(
        default={}, description='pinned: {"deepseek-r1:14b": "sha256:..."}; goes before the lock'
    )
    model_sources: Annotated[dict[str, dict[str, str]], AfterValidator(sources.model_sources)] = (
        Field(
            default={},
            description='GGUF files: {"deepseek-r1:14b": {"url": "...", "sha256": "..."}}',
        )
    )
    deep_check: bool = Field(
        default=False, description="read every model on the hosts and check its SHA-256, each run"
    )
    prune: Literal["keep", "all"] = Field(
        default="keep", description="all: models that are not wanted here are removed"
    )

    @field_validator("pull_via")
    @classmethod
    def _check_via(cls, via: str, known: ValidationInfo) -> str:
        has_login = known.data.get("registry_login_file") or known.data.get(
            "registry_login_command"
        )
        has_path = "/" in str(known.data.get("registry_url", "")).partition("://")[2]
        if via == "api" and (has_login or has_path):
            raise check.Bad("knows no registry with a login or a path", "use pull_via fetch")
        if via == "api" and check.has_login(known.data.get("https_proxy") or ""):
            raise check.Bad("would have the proxy's login in the journal", "use pull_via fetch")
        return via

    @property
    def registry_authorization(self) -> str | None:
        """What the registry is told; a secret. Raises sources.LoginError."""
        return sources.authorization(self.registry_login_file, self.registry_login_command)
