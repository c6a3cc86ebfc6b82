"""The setting of a bundle, from which a run takes all; part of Settings."""

from pydantic import Field

from r1fleet.settings_engine import Line
from r1fleet.settings_mirror import MirrorSettings


class BundleSettings(MirrorSettings):
    """Where everything comes from where there is no internet."""

    bundle: Line | None = Field(
        default=None,
        description="a folder of `r1fleet bundle` on the machine you run on: all comes from there",
    )

    @property
    def proxies(self) -> dict[str, str]:
        """As otherwise, but nothing is downloaded with a bundle."""
        return {} if self.bundle else super().proxies
