"""What status tells of hosts: rows, exit codes, and the table."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from r1fleet.drift import Drift
from r1fleet.hostfacts import Probe
from r1fleet.settings import Settings
from r1fleet.status_data import exit_code, row, silent_row, whole
from r1fleet.status_text import picture, print_status
from r1fleet.words import age
from tests.unit.build import bare
from tests.unit.served import DIGEST, PATH, choice_of, served

NOW = datetime.now(UTC)
DRIFT = Drift("unit file", "/etc/systemd/system/ollama.service is missing", "engine")


def row_of(
    probe: Probe, *drift: Drift, refusal: str | None = None, host: str = "gpu1"
) -> dict[str, Any]:
    choice = choice_of(probe)
    return row(host, Settings(), probe, choice, drift, ["engine: x"], refusal, ["hot"], NOW)


def leased(until: timedelta) -> Probe:
    """Held, with a host's clock that is a day ahead of ours."""
    clock = NOW + timedelta(days=1)
    lease = {"schema": 1, "run": "0123abcd", "who": "ops@laptop", "since": "2026-01-01T00:00:00Z"}
    lease |= {"until": (clock + until).isoformat()}
    return replace(served(), lease=(json.dumps(lease), clock.isoformat()))


def test_a_served_host() -> None:
    found = row_of(served())
    assert found["verdict"] == "as wanted"
    assert found["reason"] is None
    assert found["driver"] == {
        "version": "580.178.04",
        "loaded": "580.178.04",
        "open": True,
        "fault": None,
    }
    assert found["engine"]["answers"] == Settings().engine_version
    assert (found["tag"], found["digest"]) == ("14b", f"sha256:{DIGEST}")
    assert found["context"] >= 16384
    assert found["residency"] == 1.0
    assert 0 <= found["verified_age_s"] < 60
    assert found["tokens_per_s"] == 42.0
    assert found["disk_free_bytes"] == 9 * 10**11
    assert found["lease"] is None
    assert found["alias"] == {"deepseek-r1:fleet": f"sha256:{DIGEST}"}


def test_rows_of_all_kinds_have_the_same_fields() -> None:
    kinds = (row_of(served()), row_of(bare("T4")), silent_row("h", "failed", "x"))
    assert len({tuple(sorted(found)) for found in kinds}) == 1
    json.dumps(kinds)


def test_a_bare_host_serves_nothing() -> None:
    found = row_of(bare())
    assert found["driver"] is None
    assert [found[name] for name in ("tag", "digest", "context", "residency")] == [None] * 4


def test_aliases_are_those_that_the_manifests_show() -> None:
    probe = served()
    head = PATH.rpartition("/")[0]
    manifests = {PATH: DIGEST, f"{head}/fleet": DIGEST, f"{head}/fleet-32b": "d8" * 32}
    found = row_of(replace(probe, models=replace(probe.models, manifests=manifests)))
    assert found["tag"] == "14b"
    assert found["alias"] == {
        "deepseek-r1:fleet": f"sha256:{DIGEST}",
        "deepseek-r1:fleet-32b": f"sha256:{'d8' * 32}",
    }
    (line,) = [line for line in drawn([found], 160) if line.strip().startswith("gpu1 ")]
    assert "fleet = 14b" in line


def test_a_lease_holds_a_host_until_it_is_over() -> None:
    assert row_of(leased(timedelta(hours=1)), DRIFT)["verdict"] == "held"
    over = row_of(leased(timedelta(hours=-1)), DRIFT)
    assert over["verdict"] == "drift"
    assert over["lease"]["is_over"]
    assert row_of(replace(served(), lease=("{}", NOW.isoformat())))["lease"] is None
    assert row_of(replace(served(), lease=("damaged",)))["lease"] is None
    odd = '{"run": 1, "who": null, "since": [], "until": "soon"}'
    assert row_of(replace(served(), lease=(odd, NOW.isoformat())))["lease"]["is_over"]


def test_a_lease_of_a_run_that_is_gone_holds_nobody() -> None:
    probe = leased(timedelta(hours=1))
    found = row("h", Settings(), probe, None, (DRIFT,), [], None, [], NOW, is_left=True)
    assert (found["verdict"], found["lease"]["is_left"]) == ("drift", True)
    assert any("by a run that is gone" in line for line in drawn([found], 160))
    over = leased(timedelta(hours=-1))
    found = row("h", Settings(), over, None, (), [], None, [], NOW, is_left=True)
    assert (found["lease"]["is_over"], found["lease"]["is_left"]) == (True, False)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 0),
        (["as wanted"], 0),
        (["as wanted", "drift"], 4),
        (["drift", "held"], 5),
        (["unreachable", "drift", "as wanted"], 3),
        (["unreachable", "failed"], 1),
        (["refused"], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(verdicts: list[str], code: int) -> None:
    assert exit_code(verdicts) == code


def fleet() -> list[dict[str, Any]]:
    return [
        row_of(served()),
        row_of(served(), DRIFT, host="gpu2"),
        row_of(leased(timedelta(hours=1)), host="gpu3"),
        row_of(bare(), refusal="sizing: no GPU; set no_gpu", host="gpu4"),
        silent_row("gpu5", "unreachable", "Could not connect (timed out)"),
    ]


def drawn(rows: list[dict[str, Any]], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(picture(whole(rows, NOW), width))
    return console.export_text().splitlines()


def test_counts_and_schema() -> None:
    found = whole(fleet(), NOW)
    assert found["schema"] == 1
    assert found["counts"] == {
        "hosts": 5,
        "as wanted": 1,
        "drift": 1,
        "held": 1,
        "refused": 1,
        "unreachable": 1,
    }
    assert list(found["hosts"]) == ["gpu1", "gpu2", "gpu3", "gpu4", "gpu5"]


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_has_a_line_for_each_host_and_the_reasons_below(width: int) -> None:
    lines = drawn(fleet(), width)
    assert all(len(line) <= width for line in lines)
    (good,) = [line for line in lines if line.split()[:1] == ["gpu1"]]
    assert good.split()[1:4] == ["580.178.04", Settings().engine_version, "14b"]
    assert good.rstrip().endswith("as wanted")
    assert (DIGEST[:12] in good) == (width > 80)
    assert f"gpu2: drift, unit file: {DRIFT.what}" in "\n".join(lines)
    text = " ".join(line.strip() for line in lines)
    assert "gpu3: lease: held by ops@laptop since" in text
    assert "gpu4: refused: sizing: no GPU" in text
    assert "gpu5: unreachable: Could not connect (timed out)" in text
    assert lines[-1] == "5 hosts: 1 as wanted, 1 drift, 1 held, 1 refused, 1 unreachable"


def test_piped_lines_are_whole() -> None:
    console = Console(file=io.StringIO(), width=160, record=True)
    long = silent_row("gpu1", "failed", "because " * 60)
    print_status(console, whole([long], NOW))
    assert any(
        line.startswith("gpu1: failed: ") and len(line) > 400
        for line in console.export_text().splitlines()
    )


def test_ages() -> None:
    assert [age(s) for s in (5, 119, 180, 7300, 200000)] == ["5 s", "119 s", "3 min", "2 h", "2 d"]
