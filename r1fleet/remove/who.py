"""Which hosts of a run r1fleet is taken away from, and which must be told of it. Pure."""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from r1fleet.fleet import HostRun
from r1fleet.gateway import stands
from r1fleet.mirror.plan import GROUP


def staying(runs: Mapping[str, HostRun]) -> dict[str, list[str]]:
    """The fleet gateways of a run that stay, as hosts behind them do: gateway -> these hosts.

    One that is named alone goes, whoever is behind it.
    """
    leaving = {name for name, run in runs.items() if not run.balances}
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        if run.balances and run.probe and leaving:
            behind = {stand.name for stand in stands.known(run, runs)}
            if rest := sorted(behind - leaving):
                found[name] = rest
    return found


def leaving(runs: Mapping[str, HostRun]) -> list[str]:
    """The hosts that r1fleet is taken away from, in the inventory's order."""
    stay = staying(runs)
    return [name for name in runs if name not in stay]


def unconfirmed(names: Collection[str], told: int | None, given: bool) -> list[str]:
    """Why nothing is touched, in lines; none where the number of hosts was given as it is.

    + names: the hosts that r1fleet would be taken away from
    + told: the setting `remove`
    + given: whether it came by --data, for this run
    """
    if given and told == len(names):
        return []
    many = "1 host" if len(names) == 1 else f"{len(names)} hosts"
    why = f"remove.py would take r1fleet away from {many}: {', '.join(names)}"
    how = f"look at it with --dry; if it is meant: --data remove={len(names)}"
    wrong = [] if told is None else [f"remove is {told}, and must be that number, by --data"]
    return [why, *wrong, how]


def users_of_mirror(run: HostRun, runs: Mapping[str, HostRun], first: str | None) -> list[str]:
    """The hosts that fetch through the mirror on this host, and do not go in this run.

    + first: the mirror that hosts use which name none
    """
    if run.mirror is None:
        return []
    whole = run.host.state.inventory
    names = {run.address.lower(), run.host.name.lower()}
    found = []
    for member in whole:
        url = member.data.get("mirror_url")
        uses = _host_of(str(url)) in names if url else run.host.name == first
        serves = member.data.get("serve") is not False
        if uses and serves and member.name not in runs and member.name != run.host.name:
            found.append(member.name)
    return sorted(found)


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # the settings of a host that is not in this run are not checked
        return None


def first_mirror(run: HostRun) -> str | None:
    """The first host of the inventory's group of mirrors."""
    members = [one.name for one in run.host.state.inventory if GROUP in one.groups]
    return members[0] if members else None
