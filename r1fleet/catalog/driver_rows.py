"""Types of drivers.yaml: which driver serves a GPU, and how a distribution gets it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Flavour = Literal["open", "proprietary"]
Origin = Literal["nvidia", "distro"]
Hex4 = Annotated[str, Field(pattern=r"^[0-9a-f]{4}$")]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class FlavourRange(_Row):
    """GPUs by PCI device id, both ends included, and the driver branches that serve them."""

    first: Hex4
    last: Hex4
    flavour: Literal["legacy", "proprietary", "open"]
    first_branch: int
    last_branch: int | None = None
    open_only: bool = False
    name: str


class Distribution(_Row):
    """One way to a driver on some distributions; the fields are explained in drivers.yaml."""

    ids: tuple[str, ...]
    versions: tuple[str, ...]
    origin: Origin
    manager: Literal["apt", "dnf"]
    arch: dict[str, str]
    branches: tuple[int, int]
    follows: bool = False
    signed: bool = False
    proven: bool = False
    repository: str = ""
    keyring: str = ""
    components: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    pin: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    packages: dict[Flavour, tuple[str, ...]]
    fabric: tuple[str, ...] = ()
    source: str

    def is_for(self, distro: str, version: str) -> bool:
        """Whether the row speaks of a distribution by ID and VERSION_ID of its os-release."""
        return distro in self.ids and any(
            version == known or version.startswith(f"{known}.") for known in self.versions
        )


class Drivers(_Row):
    default_branch: int
    open_only_from: int
    flavours: tuple[FlavourRange, ...]
    distributions: tuple[Distribution, ...]

    def flavour(self, device_id: str) -> FlavourRange:
        """The kernel module flavour and the branches of a PCI device id (four hex digits)."""
        number = int(device_id, 16)
        return next(row for row in self.flavours if number <= int(row.last, 16))

    def ways(self, distro: str, version: str) -> tuple[Distribution, ...]:
        """Every way to a driver on a distribution, the preferred one first."""
        return tuple(row for row in self.distributions if row.is_for(distro, version))
