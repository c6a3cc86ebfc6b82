"""`r1fleet lock`: the digests of the wanted tags, written down beside group_data/."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

FAILED, WRONG, UNREACHABLE = 1, 2, 3


@click.command()
@click.argument("inventory")
@click.option("--limit", multiple=True, help="Only these hosts or groups, as for pyinfra.")
@click.option("--data", multiple=True, help="key=value over the inventory's, as for pyinfra.")
@click.option("--registry-url", help="Ask this registry or mirror, from here.")
@click.option("--login-file", help="As registry_login_file, for asking from here.")
@click.option("--login-command", help="As registry_login_command, for asking from here.")
@click.option("--from-host", help="Take the digests of what this host has installed.")
def lock(
    inventory: str,
    limit: tuple[str, ...],
    data: tuple[str, ...],
    registry_url: str | None,
    login_file: str | None,
    login_command: str | None,
    from_host: str | None,
) -> None:
    """Write the digests of the tags that an inventory wants into models.lock.yaml.

    With the file present, a host for which a registry has another digest fails before anything
    changes. Without --from-host each tag is asked of the registry in the settings, from this
    machine. Changes nothing on any host.

    Exit code 0: written, or all as it was; 1: a digest could not be had, nothing is written; 2:
    settings or arguments are wrong; 3: written, but for hosts that cannot be reached.

    \b
    Example: r1fleet lock inventories/lab.py
    """
    from r1fleet import lock as locks  # noqa: PLC0415  here and not above: --help needs none of it
    from r1fleet.lock_find import FindError, of_host, of_registry, unseen, wanted  # noqa: PLC0415
    from r1fleet.plan_command import _report, _told  # noqa: PLC0415
    from r1fleet.settings_sources import LoginError, authorization  # noqa: PLC0415

    try:
        before = locks.read()
    except locks.LockError as error:
        raise _stop(str(error), WRONG) from None
    report, output = _report(inventory, limit, data)
    if report is None:
        # pyinfra runs no deploy where no host can be reached at all.
        code = UNREACHABLE if "No hosts remaining" in output else WRONG
        raise _stop("\n".join(_told(output)), code)
    rows: Mapping[str, Any] = report["hosts"]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        names = wanted(rows)
        if from_host:
            found = of_host(rows, from_host, names, at)
        else:
            login = authorization(login_file, login_command)
            found = of_registry(names, registry_url, login, at)
    except (FindError, LoginError) as error:
        raise _stop(str(error), FAILED) from None
    missing = [name for name, row in rows.items() if row["verdict"] == "unreachable"]
    others = unseen(rows)
    now = locks.merged(before, found, keep_others=bool(missing or others or limit))
    for line in locks.differences(before, now):
        click.echo(line)
    if now != before:
        fresh = locks.FILE.with_name(f"{locks.FILE.name}.new")
        fresh.write_text(locks.text(now), encoding="utf-8")
        fresh.replace(locks.FILE)
    click.echo(f"{locks.FILE}: {len(now)} models, {'written' if now != before else 'as it was'}")
    if others:
        click.echo(f"not looked at, what they had stays: {', '.join(others)}")
    if missing:
        raise _stop(f"not looked at, unreachable: {', '.join(missing)}", UNREACHABLE)


def _stop(text: str, code: int) -> SystemExit:
    click.echo(f"lock: {text}", err=True)
    return SystemExit(code)
