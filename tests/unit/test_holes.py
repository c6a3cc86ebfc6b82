"""Versions of Ollama with known holes: refused, warned about, told of; and what is not pinned."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import decide, holes, outcome, rollout
from r1fleet.fleet import HostRun
from r1fleet.mirror import plan
from r1fleet.settings import Settings, SettingsError, read
from tests.unit.build import bare, working
from tests.unit.test_amd import amd_host

PAGE = Path(__file__).parents[2] / "docs" / "security-cves.md"
SHA = "ab" * 32
HTTP = "http://files.example.org/ollama"


def refused(**data: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read("t4", data)
    (only,) = caught.value.lines
    return only


@pytest.mark.parametrize("version", ["0.1.29", "0.17.0", "0.17.1-rc0", "0.9.9"])
def test_a_version_with_the_worst_holes_is_refused_with_the_way_out(version: str) -> None:
    line = refused(engine_version=version)
    assert "CVE-2026-7482" in line
    assert line.endswith("use 0.17.1 or later")


def test_the_first_version_without_them_is_taken_and_warned_about() -> None:
    assert read("t4", {"engine_version": "0.17.1"}).engine_version == "0.17.1"
    told = holes.warning("0.17.1") or ""
    assert "CVE-2026-7020" in told
    assert "CVE-2026-7482" not in told
    assert "set engine_version to 0.30.0 or later" in told
    assert "no longer maintained" in (holes.warning("0.29.9") or "")
    assert holes.warning("0.30.0") is None
    assert holes.warning(Settings().engine_version) is None


def test_candidates_come_before_their_release() -> None:
    ordered = ["0.9.9", "0.17.1-rc2", "0.17.1-rc10", "0.17.1", "0.17.10", "1.0.0"]
    assert sorted(ordered, key=holes.number) == ordered


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"engine_version": "0.12.3"}, "0.12.3"),
        ({"engine_current": "0.17.0-abcdefabcdef"}, "0.17.0"),
        ({"engine_version": "0.25.0"}, "0.25.0"),
        ({"engine_version": "0.31.0"}, None),
        ({"engine_version": "0.32.15"}, None),
        ({"engine_version": "unknown"}, None),
        ({}, None),
    ],
)
def test_an_old_engine_on_a_host_is_named(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, Any], named: str | None
) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    host: Any = SimpleNamespace(name="h", state=SimpleNamespace(is_executing=False))
    rollout.preview(HostRun(host, Settings(), bare("T4", driver=working("T4"), **there)))
    found = [text for text in outcome.of("h").warnings if "found on this host" in text]
    assert len(found) == (named is not None)
    assert all(f"Ollama {named}, found" in text for text in found)
    assert all("Ollama 0.32.15 takes its place" in text for text in found)


def test_an_archive_by_plain_http_needs_a_hash() -> None:
    line = refused(engine_url=HTTP)
    assert "plain http" in line
    assert line.endswith("use https or set engine_sha256")
    assert read("t4", {"engine_url": HTTP, "engine_sha256": SHA}).engine_url == HTTP
    assert read("t4", {"engine_url": "https://files.example.org"}).engine_sha256 is None


def test_the_keyring_of_the_drivers_by_plain_http_needs_a_hash() -> None:
    url = "http://files.example.org/cuda"
    line = refused(driver_repository_url=url)
    assert line.startswith("t4: driver_keyring_sha256: ")
    assert "plain http" in line
    pinned = read("t4", {"driver_repository_url": url, "driver_keyring_sha256": SHA})
    assert pinned.driver_repository_url == url


def test_the_second_archive_of_amd_is_pinned_by_no_setting() -> None:
    settings = Settings(engine_url=HTTP, engine_sha256=SHA)
    (refusal,) = decide.refusals(settings, amd_host())
    assert "plain http" in refusal[1]
    assert decide.refusals(settings, bare("T4")) == []
    assert decide.refusals(Settings(), amd_host()) == []


def test_a_mirror_that_is_the_only_way_needs_a_hash() -> None:
    alone = Settings(mirror_url="http://10.0.0.9:5080", mirror_fallback=False)
    with pytest.raises(SettingsError, match="engine_sha256"):
        plan.join({"a": alone}, {"a": "10.0.0.1"}, [])
    for own in (
        alone.model_copy(update={"engine_sha256": SHA}),
        alone.model_copy(update={"mirror_fallback": True}),
        alone.model_copy(update={"mirror_url": "https://10.0.0.9"}),
    ):
        plan.join({"a": own}, {"a": "10.0.0.1"}, [])


def test_the_page_is_what_the_data_say_and_names_every_cve() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == holes.table(), "run: python -m r1fleet.holes > docs/security-cves.md"
    named = set(re.findall(r"\[(CVE-\d{4}-\d+)\]", page))
    assert named == {cve for hole in holes.known().holes for cve in hole.cves}
    assert len(named) == sum(len(hole.cves) for hole in holes.known().holes)


def test_every_hole_says_since_when_it_is_closed_or_how_far_it_is_known() -> None:
    for hole in holes.known().holes:
        assert (hole.fixed is None) is (hole.affected is not None), hole
        assert hole.besides, hole
        assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}", cve) for cve in hole.cves)


def test_what_every_version_has_is_held_against_none() -> None:
    data = holes.known()
    newest = Settings().engine_version
    assert data.of(newest) == ()
    everywhere = [hole for hole in data.holes if hole.is_in(newest)]
    assert {"CVE-2025-63389", "CVE-2026-5757"} == {c for hole in everywhere for c in hole.cves}
    assert replace(everywhere[0], fixed="0.1.0").is_in(newest) is False
