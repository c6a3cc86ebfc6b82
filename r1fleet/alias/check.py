"""The checks of the alias's settings. Each returns the normalised value or raises Bad."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from r1fleet import catalog
from r1fleet.settings_check import Bad

SYSTEM_MOST_CHARS = 32768
# What a Modelfile may set without another load of the model, with the type that Ollama reads.
PARAMETERS: Mapping[str, type | tuple[type, ...]] = {
    "num_keep": int,
    "seed": int,
    "num_predict": int,
    "top_k": int,
    "repeat_last_n": int,
    "top_p": (int, float),
    "min_p": (int, float),
    "typical_p": (int, float),
    "temperature": (int, float),
    "repeat_penalty": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "stop": list,
}
# Those of the load: a request with other values loads the model a second time.
_OF_THE_LOAD = {
    "num_ctx": "ollama_context_length",
    "num_batch": "nothing",
    "num_gpu": "placement",
    "main_gpu": "extra_env",
    "use_mmap": "nothing",
    "num_thread": "nothing",
    "draft_num_predict": "nothing",
}


def alias(value: str) -> str:
    """A full name that no model of the catalogue has."""
    form = r"([a-z0-9_-]{1,80}/)?[a-z0-9][a-z0-9._-]{0,79}:[a-z0-9][A-Za-z0-9._-]{0,59}"
    if not re.fullmatch(form, value):
        raise Bad("is not a name with a tag", "give it as deepseek-r1:fleet")
    model, _, tag = value.partition(":")
    is_taken = catalog.is_r1(model) and tag in catalog.tag_names()
    if is_taken or tag == "latest" or value in catalog.others():
        raise Bad("is the name of a model", "take one that no model has, as deepseek-r1:fleet")
    if tag in ("cloud", "local") or tag.endswith("-cloud"):
        raise Bad("has a tag that Ollama keeps for itself", "take another, as deepseek-r1:fleet")
    return value


def system(value: str) -> str | None:
    """A system prompt; lines may be broken. Nothing but blanks is none."""
    if not all(char.isprintable() or char in "\n\t" for char in value):
        raise Bad("has a control character", "take it out")
    if len(value) > SYSTEM_MOST_CHARS:
        raise Bad("is too long", f"use at most {SYSTEM_MOST_CHARS} characters")
    return value if value.strip() else None


def date(value: object) -> object:
    """A date or a moment in ISO 8601. pyinfra makes numbers of `--data` values."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        return text
    try:
        return moment(text).isoformat()
    except ValueError as error:
        raise Bad("is not a date", "give it as 2026-11-24 or 2026-11-24T21:00:00") from error


def moment(text: str) -> datetime:
    """The end of a date, or a moment; without a zone it is UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    if len(text) <= len("2026-11-24"):
        found = found.replace(hour=23, minute=59, second=59)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def parameters(value: Mapping[str, object]) -> dict[str, object]:
    """Parameters of a Modelfile that need no other load of the model."""
    for name, content in value.items():
        if name in _OF_THE_LOAD:
            instead = _OF_THE_LOAD[name]
            do = "leave it out" if instead == "nothing" else f"use {instead}"
            raise Bad(f"has {name}, which would load the model a second time", do)
        if name not in PARAMETERS:
            raise Bad(f"has an unknown parameter {name!r}", f"use {', '.join(PARAMETERS)}")
        if isinstance(content, bool) or not isinstance(content, PARAMETERS[name]):
            kind = {"stop": "a list of texts"}.get(name, "a number")
            raise Bad(f"has no {kind.removeprefix('a ')} for {name}", f"give {kind}")
        if isinstance(content, list) and not all(isinstance(text, str) for text in content):
            raise Bad("has something else than texts in stop", "give a list of texts")
    return dict(value)
