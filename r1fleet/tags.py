"""The tags that a host had before: kept for a way back, then removed. Planning is pure.

Only what r1fleet brought itself is ever removed; state.json says what that is.
"""

from collections.abc import Collection, Generator, Iterable, Mapping
from typing import Any

from pyinfra.api import FunctionCommand, operation

from r1fleet.hostfacts import Probe
from r1fleet.model.manifest import ModelWanted, accepted_digest, manifest_path
from r1fleet.remote import step
from r1fleet.rollback.guard import optional
from r1fleet.shell import assign

Commands = Generator[FunctionCommand, None, None]
Row = dict[str, Any]  # {"name", "digest", "layers", "brought"}

_KEEP_SIDE = """
runuser -u ollama -- env "R1_MODELS=$R1_MODELS" "R1_FROM=$R1_FROM" "R1_TO=$R1_TO" sh -c '
  umask 022
  stage=$R1_MODELS/.r1fleet-side
  cp "$R1_MODELS/manifests/$R1_FROM" "$stage" && sync "$stage" &&
    mv -f "$stage" "$R1_MODELS/manifests/$R1_TO"'
"""
# What it holds is looked at once more: it may have been pulled anew by somebody else.
_REMOVE = """
found=$(sha256sum <"$R1_FILE") || exit 0
[ "${found%% *}" = "$R1_SHA256" ] || exit 0
curl -fsS --noproxy '*' -m 60 -X DELETE -d "$R1_BODY" "$R1_URL/api/delete"
"""


def side_name(name: str, digest: str) -> str:
    """The name that a digest keeps when its own name goes to another one."""
    model, _, tag = name.partition(":")
    return f"{model}:{tag[:60]}-{digest.removeprefix('sha256:')[:12]}"


def served(state: Mapping[str, Any]) -> Row | None:
    """The model that state.json says was proven last; None when none was."""
    verified, models = state.get("verified"), state.get("models")
    if not isinstance(verified, dict) or not isinstance(models, dict):
        return None
    for name, entry in models.items():
        if isinstance(entry, dict) and entry.get("digest") == verified.get("digest"):
            return {"brought": False, **entry, "name": name}
    return None


def was_brought(state: Mapping[str, Any], fetched: Iterable[Row], name: str, digest: str) -> bool:
    """Whether r1fleet brought this very model, in this run (`fetched`) or in a former one."""
    models = state.get("models")
    entry = models.get(name) if isinstance(models, dict) else None
    rows = [{**entry, "name": name}] if isinstance(entry, dict) else []
    return any(
        row.get("digest") == digest and row.get("brought") is True
        for row in (*rows, *_recorded(state), *fetched)
        if row["name"] == name
    )


def replaced(state: Mapping[str, Any], name: str, digest: str) -> Row | None:
    """What was served before this model, under the name that it has now; None when that is the
    same model or nothing was."""
    before = served(state)
    if before is None or (before["name"], before["digest"]) == (name, digest):
        return None
    if before["name"] == name:
        return {**before, "name": side_name(name, before["digest"])}
    return before


def can_answer(probe: Probe) -> bool:
    """Whether the model that was proven last is on the host and its engine runs."""
    before = served(probe.state)
    if before is None or not probe.engine_version:
        return False
    manifests = probe.models.manifests
    side = {**before, "name": side_name(before["name"], before["digest"])}
    return _is_there(before, manifests) or _is_there(side, manifests)


def former(
    state: Mapping[str, Any],
    name: str,
    digest: str,
    manifests: Mapping[str, str],
    beside: Collection[str] = (),
) -> list[Row]:
    """The former tags that are on the host and were brought by r1fleet, the last one first.

    + manifests: what is on the host, path below manifests/ -> sha256
    + beside: names of the models beside R1: what is one of these now is no former tag
    """
    before = replaced(state, name, digest)
    rows = [*([before] if before else []), *_recorded(state)]
    found: dict[str, Row] = {}
    for row in rows:
        if row["name"] in (name, *beside):
            continue
        if row["brought"] and _is_there(row, manifests):
            found.setdefault(row["name"], row)
    return list(found.values())


def with_left_over(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    fetched: Iterable[Row],
    manifests: Mapping[str, str],
) -> list[Row]:
    """The former tags after a way back: those of then, and what was brought since, as the oldest.

    + then, now: state.json of the snapshot, and the one that is there
    + fetched: what this run brought
    """
    rows = {row["name"]: row for row in _recorded(then)}
    before = served(then)
    for row in (*_recorded(now), *filter(None, [served(now)]), *fetched):
        rows.setdefault(row["name"], row)
    if before:
        rows.pop(before["name"], None)
    return [row for row in rows.values() if row["brought"] and _is_there(row, manifests)]


@operation()
def keep_side(want: ModelWanted, probe: Probe) -> Commands:
    """Give the model that is served a name of its own, if its name is about to go to another one.

    + want: what is about to be fetched
    + probe: the host as it is
    """
    before = served(probe.state)
    if (
        before is None
        or before["name"] != want.name
        or not _is_there(before, probe.models.manifests)
    ):
        return
    if accepted_digest(want, probe.models):
        return
    side = side_name(want.name, before["digest"])
    if manifest_path(side) in probe.models.manifests:
        return
    values = {
        "R1_MODELS": want.models_dir,
        "R1_FROM": want.manifest_path,
        "R1_TO": manifest_path(side),
    }
    yield step(
        "pull",
        f"keeps the model that is served as {side}",
        assign(values) + _KEEP_SIDE,
        "check the rights in ollama_models",
    )


@operation()
def tidy(rows: Iterable[Row], base_url: str, models_dir: str) -> Commands:
    """Remove former tags; the engine keeps every file that another model needs.

    + rows: as made by `former`
    + base_url: the running engine
    """
    for row in rows:
        values = {
            "R1_URL": base_url,
            "R1_BODY": f'{{"model": "{row["name"]}"}}',
            "R1_FILE": f"{models_dir}/manifests/{manifest_path(row['name'])}",
            "R1_SHA256": row["digest"].removeprefix("sha256:"),
        }
        yield optional(
            step(
                "model",
                f"removes the former {row['name']}",
                assign(values) + _REMOVE,
                f"remove it with: ollama rm {row['name']}",
                change=f"model {row['name']} removed",
            )
        )


def _recorded(state: Mapping[str, Any]) -> list[Row]:
    rows = state.get("former")
    return [
        {"brought": False, **row}
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and isinstance(row.get("digest"), str)
    ]


def _is_there(row: Row, manifests: Mapping[str, str]) -> bool:
    found = manifests.get(manifest_path(row["name"]))
    return found is not None and f"sha256:{found}" == str(row["digest"])
