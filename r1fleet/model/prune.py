"""Models that nobody wants any more; they go only with `prune: all`."""

import json
import re
import shlex
from collections.abc import Collection, Generator, Mapping
from typing import Any

from pyinfra.api import FunctionCommand, operation

from r1fleet.hostfacts import ModelStore
from r1fleet.model.manifest import REGISTRY
from r1fleet.remote import step

Commands = Generator[FunctionCommand, None, None]

# What the engine takes as a name; anything else below manifests/ is not a model of its.
_PATH = re.compile(r"[A-Za-z0-9._:-]+/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_STABLE = "fleet"  # tags that clients ask for: deepseek-r1:fleet, deepseek-r1:fleet-32b


def unwanted(
    store: ModelStore,
    state: Mapping[str, Any],
    model: str,
    wanted: Collection[str],
    stays: Collection[str] = (),
) -> tuple[str, ...]:
    """Names of models on a host that are neither wanted, nor the stable name of `model`, nor what
    the last run delivered: that one is left to the run after. Pure.

    + wanted: manifest paths of what this run delivered
    + stays: names that serve or are kept for a way back
    """
    former = state.get("models")
    kept = {_name(path) for path in wanted} | set(former if isinstance(former, dict) else ())
    kept |= set(stays)
    own = model if "/" in model else f"library/{model}"
    names = (
        _name(path)
        for path in sorted(store.manifests)
        if _PATH.fullmatch(path) and not path.startswith(f"{REGISTRY}/{own}/{_STABLE}")
    )
    return tuple(name for name in names if name not in kept)


@operation()
def remove(engine_url: str, names: tuple[str, ...]) -> Commands:
    """Remove models by the engine, which keeps the files that others share.

    + engine_url: the running engine
    + names: as the engine knows them
    """
    for name in names:
        body = shlex.quote(json.dumps({"model": name}))
        yield step(
            "prune",
            f"removes {name}",
            f"curl -sSf --noproxy '*' -m 120 -X DELETE -d {body}"
            f" {shlex.quote(engine_url)}/api/delete",
            "see `journalctl -u ollama`, or set prune to keep",
            change=f"{name} removed",
        )


def _name(path: str) -> str:
    host, space, model, tag = path.split("/")
    if host != REGISTRY:
        return f"{host}/{space}/{model}:{tag}"
    return f"{model}:{tag}" if space == "library" else f"{space}/{model}:{tag}"
