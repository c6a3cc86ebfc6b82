"""What a host fetches, as it is fetched through its mirror. Pure."""

from dataclasses import dataclass, replace

from r1fleet.engine import wanted
from r1fleet.engine.wanted import Archive
from r1fleet.mirror.plan import ENGINE
from r1fleet.model.manifest import ModelWanted
from r1fleet.settings import Settings


@dataclass
class Source:
    """The mirror's URL for what the mirror stands for, None for what comes from the source."""

    settled: bool = False  # the mirror was asked, or its place taken by the source
    models: str | None = None
    engine: str | None = None
    fallback: bool = True

    def model(self, want: ModelWanted) -> ModelWanted:
        """The same model, through the mirror; what is of a file, or asks for a login, is not."""
        if self.models is None or want.source or want.authorization:
            return want
        source = want.registry_url if self.fallback else None
        return replace(want, registry_url=self.models, fallback_url=source, mirrored=True)

    def archive(self, found: Archive, settings: Settings) -> Archive:
        """The same archive, through the mirror or from the bundle."""
        if settings.bundle:
            return wanted.packed(found, settings)
        if self.engine is None:
            return found
        base, there = settings.engine_url, self.engine + ENGINE
        return replace(
            found,
            url=there + found.url.removeprefix(base),
            rocm_url=found.rocm_url and there + found.rocm_url.removeprefix(base),
            mirror=there,
            source=base if self.fallback else None,
        )
