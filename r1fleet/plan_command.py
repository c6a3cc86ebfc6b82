"""`r1fleet plan`: what each host of an inventory would get. Nothing is changed.

The inventory, its group data and limits are read by pyinfra itself, in a process of its own, as
for the main job: a plan that read them in another way would be of another fleet.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

FAILED, WRONG, UNREACHABLE, HELD = 1, 2, 3, 5


@click.command()
@click.argument("inventory")
@click.option("--limit", multiple=True, help="Only these hosts or groups, as for pyinfra.")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@click.option("-v", "verbose", is_flag=True, help="Why each other tag was not taken.")
def plan(
    inventory: str, limit: tuple[str, ...], data: tuple[str, ...], as_json: bool, verbose: bool
) -> None:
    """What each host would get, and why: hardware, tag, margin, download. Changes nothing.

    Exit code 0: every host can be served; 1: some host cannot; 2: settings or arguments are
    wrong; 3: nothing worse than hosts that cannot be reached; 5: another operator holds some host.

    \b
    Example: r1fleet plan inventories/lab.py -v
    """
    # Here and not above: `r1fleet --help` needs none of it.
    from r1fleet.plan_data import SCHEMA, host_rows  # noqa: PLC0415

    report, output = _report(inventory, limit, data)
    if report is None:
        click.echo("\n".join(_told(output)), err=True)
        # pyinfra runs no deploy where no host can be reached at all.
        raise SystemExit(UNREACHABLE if "No hosts remaining" in output else WRONG)
    rows = host_rows(report["hosts"].values())
    if as_json:
        hosts = {row["host"]: row for row in rows}
        whole = {"schema": SCHEMA, "at": report["at"], "counts": report["counts"], "hosts": hosts}
        click.echo(json.dumps(whole, indent=1))
    else:
        _show(rows, verbose)
    raise SystemExit(exit_code(row["verdict"] for row in rows))


def exit_code(verdicts: Iterable[str]) -> int:
    """Of a plan with these verdicts."""
    found = set(verdicts)
    if found & {"failed", "refused"}:
        return FAILED
    if "held" in found:
        return HELD
    return UNREACHABLE if "unreachable" in found else 0


def _report(
    inventory: str,
    limit: Iterable[str],
    data: Iterable[str],
    deploy: str = "plan_deploy.py",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any] | None, str]:
    """pyinfra's dry run: its report, None when it came to none, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "plan.json"
        # --json: no questions about hosts that fail.
        words = [
            sys.executable,
            "-m",
            "pyinfra",
            inventory,
            str(Path(__file__).parent / deploy),
            "--dry",
            "--json",
        ]
        words += [word for name in limit for word in ("--limit", name)]
        words += [word for pair in (*data, f"report={target}") for word in ("--data", pair)]
        done = subprocess.run(
            words,
            env=os.environ | {"PYINFRA_PROGRESS": "off", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        report = json.loads(target.read_text()) if target.exists() else None
    return report, done.stdout


def _told(output: str) -> Iterator[str]:
    """What pyinfra said, without its progress."""
    for line in output.splitlines():
        is_progress = line.startswith(("-->", "{")) or "Loading: " in line or "] Connected" in line
        if line.strip() and not is_progress:
            yield line.strip()


def _show(rows: Iterable[Mapping[str, Any]], verbose: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from r1fleet.plan_text import print_plan  # noqa: PLC0415
    from r1fleet.words import plain  # noqa: PLC0415

    print_plan(Console(width=None if sys.stdout.isatty() else 160), plain(rows), candidates=verbose)
