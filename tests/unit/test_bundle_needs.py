"""What a host needs of a bundle, and what a bundle lacks for it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet.bundle import contents, needs
from r1fleet.bundle.needs import DriverPackages
from r1fleet.bundle.packing import needs_of
from r1fleet.driver.foreign import Stop
from r1fleet.driver.plan import plan
from r1fleet.fleet import HostRun
from r1fleet.hostfacts import Gateway, ModelStore, Probe
from r1fleet.model.manifest import parse, state_entry
from r1fleet.settings import Settings
from tests.unit.build import bare, working
from tests.unit.bundles import DRIVER, NAME, make
from tests.unit.registry import BIG, SMALL, manifest, sha256


@pytest.fixture
def bundle(tmp_path: Path) -> contents.Bundle:
    contents.read.cache_clear()
    return contents.read(str(make(tmp_path)))


def lacking(bundle: contents.Bundle, probe: Probe, **changes: Any) -> list[str]:
    settings = Settings(bundle=str(bundle.folder), **changes)
    return list(needs.lacking(bundle, settings, probe, plan(probe, settings)))


def test_a_bare_host_for_which_it_was_made_lacks_nothing(bundle: contents.Bundle) -> None:
    assert lacking(bundle, bare("T4")) == []


def test_all_that_is_lacking_is_told_at_once(bundle: contents.Bundle) -> None:
    probe = bare("T4", distro_version="13", distro_name="Debian 13")
    told = lacking(bundle, probe, tag="7b", engine_version="0.33.0")
    assert told == [
        "for debian 13 (x86_64) the packages aria2, linux-headers-6.1.0-44-amd64,"
        " nvidia-driver-cuda, nvidia-driver-pinning-580, nvidia-kernel-open-dkms, zstd",
        "Ollama 0.33.0 for x86_64",
        "the model deepseek-r1:7b",
    ]


def test_another_branch_is_another_pin(bundle: contents.Bundle) -> None:
    (told,) = lacking(bundle, bare("T4"), driver_branch=570)
    assert told == "for debian 12 (x86_64) the packages nvidia-driver-pinning-570"


def test_other_digests_and_sums(bundle: contents.Bundle) -> None:
    pinned = {NAME: "sha256:" + "a" * 64}
    told = lacking(bundle, bare("T4"), model_digests=pinned, engine_sha256="b" * 64)
    assert [line.partition(" (it has")[0] for line in told] == [
        "the Ollama of engine_sha256",
        f"{NAME} with the pinned sha256:aaaaaaaaaaaa",
    ]


def test_a_file_at_a_url_is_in_no_bundle(bundle: contents.Bundle) -> None:
    source = {"url": "https://example.org/x.gguf", "sha256": "a" * 64}
    (told,) = lacking(bundle, bare("T4"), model_sources={NAME: source})
    assert told.startswith(f"{NAME}, which model_sources has at a URL")
    source = {"path": "/data/x.gguf", "sha256": "a" * 64}
    assert lacking(bundle, bare("T4"), model_sources={NAME: source}) == []


def test_what_a_host_has_is_not_asked_for(bundle: contents.Bundle) -> None:
    """Then it does not matter that the bundle is of another release or model."""
    raw = manifest()
    path = f"registry.ollama.ai/library/{NAME.replace(':', '/')}"
    store = ModelStore(
        "directory",
        disk_free_bytes=9 * 10**11,
        manifests={path: sha256(raw)},
        blobs={f"sha256-{sha256(data)}": len(data) for data in (BIG, SMALL)},
    )
    probe = bare(
        "T4",
        driver=working("T4"),
        tools=frozenset({"aria2c", "zstd", "curl", "tar", "apt-get", "systemd-run"}),
        engine_versions=frozenset({"0.32.15"}),
        models=store,
        state={"models": {NAME: state_entry(parse(raw))}},
    )
    empty = contents.Bundle(
        bundle.folder,
        bundle.contents.model_copy(update={"engines": (), "models": {}, "packages": ()}),
    )
    assert lacking(empty, probe) == []
    blobs = {**store.blobs, f"sha256-{sha256(BIG)}": 1}
    cut = replace(probe, models=replace(store, blobs=blobs))
    assert lacking(empty, cut) == [f"the model {NAME}"]


def test_the_driver_is_packed_as_if_the_host_had_none() -> None:
    for probe in (bare("T4"), bare("T4", driver=working("T4"))):
        found = needs.driver(Settings(driver_keyring_sha256="c" * 64), probe)
        assert isinstance(found, DriverPackages)
        assert found.names == DRIVER
        assert found.pins == DRIVER[:1]
        assert found.keyring_sha256 == "c" * 64
        assert found.keyring_url
        assert found.keyring_url.endswith("/debian12/x86_64/cuda-keyring_1.1-1_all.deb")
    distro = needs.driver(
        Settings(driver_source="distro"), bare("T4", distro_version="13", distro_name="Debian 13")
    )
    assert isinstance(distro, DriverPackages)
    assert distro.keyring_url is None
    assert distro.components == ("contrib", "non-free", "non-free-firmware")


def test_where_there_are_no_driver_packages() -> None:
    assert needs.driver(Settings(), bare()) is None
    rocky = bare("T4", distro="rocky", distro_version="9.4", distro_name="Rocky 9")
    found = needs.driver(Settings(), rocky)
    assert isinstance(found, Stop)
    assert "dnf" in found.why


def test_a_gateway_needs_caddy(bundle: contents.Bundle) -> None:
    assert lacking(bundle, bare("T4"), expose="gateway") == ["Caddy 2.11.9 for x86_64"]
    there = bare("T4", gateway=Gateway(versions=frozenset({"2.11.9"})))
    assert lacking(bundle, there, expose="gateway") == []


def test_a_fleet_gateway_needs_caddy_alone(bundle: contents.Bundle) -> None:
    settings, probe = Settings(serve=False), bare()
    assert list(needs.lacking_gateway(bundle, settings, probe)) == []
    lacking = needs.lacking_gateway(bundle, settings, probe, balances=True)
    assert list(lacking) == ["Caddy 2.11.9 for x86_64"]
    host: Any = SimpleNamespace(name="gw")
    run = HostRun(host, settings, probe)
    assert needs_of(run) == {}
    found = needs_of(replace(run, balancers=("gw",)))
    assert (set(found), found["gateway"]["version"]) == ({"arch", "gateway"}, "2.11.9")
