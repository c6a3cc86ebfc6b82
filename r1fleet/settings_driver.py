"""The settings of the NVIDIA driver, after those of the engine; part of Settings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from r1fleet import settings_check as check
from r1fleet.settings_engine import EngineSettings, Sha256, Url

DriverVersion = Annotated[str, AfterValidator(check.driver_version)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(check.names), AfterValidator(check.process_names)
]


class DriverSettings(EngineSettings):
    """What a host's driver should be, and what may be done for it."""

    driver_branch: Annotated[int, Field(ge=550, le=999)] | None = Field(
        default=None,
        description="such as 580; None: a driver that works stays, else 580",
    )
    driver_min_version: DriverVersion | None = Field(
        default=None, description="an older driver is changed, such as 580.95.05"
    )
    driver_flavour: Literal["auto", "open", "proprietary"] = Field(
        default="auto", description="kernel module: auto (by PCI id), open or proprietary"
    )
    driver_source: Literal["nvidia", "distro"] | None = Field(
        default=None,
        description="nvidia, distro; None: signed modules of the distribution, else nvidia",
    )
    driver_reboot: Literal["auto", "ask", "never"] = Field(
        default="auto",
        description="auto: one if needed and nobody else is there; ask: left to you; never",
    )
    driver_reboot_timeout_s: Annotated[int, Field(ge=10)] = Field(
        default=900, description="not back by then fails it; much memory is tested for minutes"
    )
    rollout_reboots_at_once: Annotated[int, Field(ge=1)] = Field(
        default=1, description="serving hosts that may be away for a reboot"
    )
    driver_hold: bool = Field(default=False, description="hold driver and kernel packages together")
    driver_allow_unproven: bool = Field(default=False, description="go on where no test has been")
    driver_stop_others: Names = Field(default=(), description="users of a GPU that may be stopped")
    driver_rollback: bool = Field(default=False, description="back to the driver before the last")
    driver_repository_url: Url = Field(
        default="https://developer.download.nvidia.com/compute/cuda/repos",
        description="or a mirror",
    )
    driver_keyring_sha256: Sha256 | None = Field(
        default=None,
        validate_default=True,
        description="of the keyring package; None: whatever https serves",
    )

    @field_validator("driver_keyring_sha256")
    @classmethod
    def _check_keyring(cls, sha256: str | None, known: ValidationInfo) -> str | None:
        if sha256 is None and str(known.data.get("driver_repository_url")).startswith("http://"):
            why = "is needed where driver_repository_url is plain http"
            raise check.Bad(why, "set it, or use https")
        return sha256
