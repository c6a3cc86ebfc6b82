"""`r1fleet bundle`: engine, models and packages of an inventory in one folder."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

FAILED, WRONG, UNREACHABLE = 1, 2, 3


@click.command()
@click.argument("inventory")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--limit", multiple=True, help="Only these hosts or groups, as for pyinfra.")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--registry-url", help="Fetch models from this registry or mirror.")
def bundle(
    inventory: str,
    out: Path,
    limit: tuple[str, ...],
    data: tuple[str, ...],
    registry_url: str | None,
) -> None:
    """Pack all that the hosts of an inventory need into the folder OUT.

    Engine, models (of the lock, where there is one) and packages (tools and driver, for apt) are
    fetched by this machine; of each host only its hardware, release and apt sources are read. A
    run with the setting `bundle` then takes all from there, without any internet. Run again with
    the same folder to bring it up to date: what is there is not fetched again.

    Exit code 0: written; 1: something could not be had, there is no bundle; 2: settings or
    arguments are wrong; 3: written, but for hosts that cannot be reached.

    \b
    Example: r1fleet bundle inventories/lab.py /media/stick/r1
             pyinfra inventories/lab.py deploy.py -y --data bundle=/media/stick/r1
    """
    from r1fleet.bundle.packing import FindError, Maker, PackError  # noqa: PLC0415  for --help
    from r1fleet.model.manifest import human  # noqa: PLC0415
    from r1fleet.plan_command import _report, _told  # noqa: PLC0415
    from r1fleet.settings_sources import LoginError  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="r1fleet-bundle-") as folder:
        deploy = "bundle/needs_deploy.py"
        # A bundle that the settings name is only being made.
        report, output = _report(
            inventory, limit, (*data, "bundle=null"), deploy, {"R1_BUNDLE_NEEDS": folder}
        )
        if report is None:
            code = UNREACHABLE if "No hosts remaining" in output else WRONG
            raise _stop("\n".join(_told(output)), code)
        hosts: dict[str, Any] = {
            path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))
        }
    for name, host in hosts.items():
        for line in host.get("left_out", ()):
            click.echo(f"{name}: not packed: {line}", err=True)
    parts = ("engine", "gateway")
    asked = {name: host for name, host in hosts.items() if any(map(host.get, parts))}
    if not asked:
        raise _stop("no host that could be looked at needs anything; see `r1fleet plan`", FAILED)
    maker = Maker(out, click.echo, registry_url)
    try:
        maker.make(asked)
    except (FindError, PackError, LoginError, OSError) as error:
        raise _stop(str(error), FAILED) from None
    counts = f"{len(maker.engines)} engines, {len(maker.models)} models"
    packages = sum(name.endswith(".deb") for name in maker.files)
    click.echo(f"{out}: {counts}, {packages} packages, {human(maker.size_bytes)}")
    missing = [name for name, row in report["hosts"].items() if row["verdict"] == "unreachable"]
    if missing:
        raise _stop(f"not looked at, unreachable: {', '.join(missing)}", UNREACHABLE)


def _stop(text: str, code: int) -> SystemExit:
    click.echo(f"bundle: {text}", err=True)
    return SystemExit(code)
