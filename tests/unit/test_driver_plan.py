"""Which driver a host gets: the cases are in data/driver/*.yaml, for people to read and check."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import catalog
from r1fleet.driver import commands
from r1fleet.driver.choice import choose_flavour, kernel_flavour
from r1fleet.driver.foreign import Stop
from r1fleet.driver.plan import DriverPlan, only_holds, plan
from r1fleet.driver.strangers import age
from tests.unit import driver_cases


def by_name(file: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in driver_cases.cases(file)]


def check(found: DriverPlan, want: dict[str, Any]) -> None:
    for key, value in want.items():
        if key == "commands_include":
            for part in value:
                assert any(part in command for command in found.commands), found.commands
        elif key in ("reason", "fix"):
            assert value in getattr(found, key)
        else:
            has = getattr(found, key)
            assert (list(has) if isinstance(has, tuple) else has) == value, key


@pytest.mark.parametrize("case", by_name("distributions"))
def test_a_bare_host_of_every_distribution(case: dict[str, Any]) -> None:
    check(plan(driver_cases.probe(case), driver_cases.settings(case)), case["want"])


@pytest.mark.parametrize("case", by_name("states"))
def test_a_host_in_every_state(case: dict[str, Any]) -> None:
    check(plan(driver_cases.probe(case), driver_cases.settings(case)), case["want"])


@pytest.mark.parametrize("case", by_name("generations"))
def test_every_generation_of_gpus(case: dict[str, Any]) -> None:
    check(plan(driver_cases.probe(case), driver_cases.settings(case)), case["want"])


def test_only_proven_distributions_need_no_word() -> None:
    rows = catalog.drivers().distributions
    assert {
        (name, version)
        for row in rows
        if row.proven
        for name in row.ids
        for version in row.versions
    } == {("debian", "12"), ("debian", "13")}
    assert all(row.source for row in rows)


def test_every_distribution_of_the_catalogue_is_in_a_case() -> None:
    known = [
        (case["host"]["id"], case["host"]["version"])
        for case in driver_cases.cases("distributions")
    ]
    for row in catalog.drivers().distributions:
        for name in row.ids:
            assert any(distro == name and row.is_for(distro, version) for distro, version in known)


@pytest.mark.parametrize("record", [{}, {"held": True}])
def test_a_lock_of_somebody_else_stays(record: dict[str, Any]) -> None:
    rows = driver_cases.cases("distributions")
    case = next(row for row in rows if row["host"]["id"] == "rocky")
    probe = driver_cases.probe(case)
    system = replace(probe.system, held=frozenset({"kernel-0:5.14*"}), record=record)
    settings = driver_cases.settings(case).model_copy(update={"driver_allow_unproven": True})
    found = plan(replace(probe, system=system), settings)
    assert (commands.unhold("dnf") in found.commands) is bool(record)


@pytest.mark.parametrize("manager", ["apt", "dnf"])
def test_holds_are_told_from_changes_and_only_ours_are_let_go(manager: str) -> None:
    holds = (commands.unhold(manager), commands.hold(manager))
    assert only_holds(DriverPlan("change", "", commands=holds))
    assert not only_holds(DriverPlan("change", "", commands=(*holds, "dkms autoinstall")))
    assert "clear" not in commands.unhold(manager)  # which lets go of everybody's


@pytest.mark.parametrize(
    ("kernel", "packages", "flavour"),
    [("6.8.0-45-generic", [], "generic"), ("6.8.0-1016-aws", [], "aws")]
    + [("6.11.0-19-generic", ["linux-image-generic-hwe-24.04"], "generic-hwe-24.04")]
    + [("6.8.0-1009-nvidia-64k", [], "nvidia-64k"), ("5.14.0", [], "")]
    + [("6.1.0-44-amd64", [], "amd64"), ("6.12.57+deb13-cloud-amd64", [], "cloud-amd64")]
    + [("5.14.0-611.el9.x86_64", [], ""), ("6.1.158-178.288.amzn2023.x86_64", [], "")],
)
def test_kernel_flavours(kernel: str, packages: list[str], flavour: str) -> None:
    assert kernel_flavour(kernel, packages) == flavour


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (61, "1 min"), (11520, "3 h 12 min"), (90000, "1 d 1 h")],
)
def test_ages(seconds: int, text: str) -> None:
    assert age(seconds) == text


IDS = st.integers(min_value=0, max_value=0xFFFF).map(lambda number: f"{number:04x}")


@given(st.lists(IDS, min_size=1, max_size=8), st.integers(min_value=550, max_value=700))
def test_a_flavour_serves_every_card_of_a_host_or_there_is_none(
    ids: list[str], branch: int
) -> None:
    rows = {device: catalog.drivers().flavour(device) for device in ids}
    found = choose_flavour(rows, branch)
    if isinstance(found, Stop):
        assert found.fix
        return
    for row in rows.values():
        assert row.first_branch <= branch <= (row.last_branch or branch)
        assert row.flavour == "open" if found == "open" else not row.open_only


def test_the_ranges_of_ids_leave_no_gap() -> None:
    rows = catalog.drivers().flavours
    assert (rows[0].first, rows[-1].last) == ("0000", "ffff")
    for before, after in pairwise(rows):
        assert int(after.first, 16) == int(before.last, 16) + 1
