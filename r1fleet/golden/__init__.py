"""The team's own prompts: what the file asks for, and whether an answer holds. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from r1fleet.settings_check import Bad

KINDS: Mapping[str, type | tuple[type, ...]] = {
    "text": str,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "object": dict,
}
Kind = Literal["text", "number", "boolean", "list", "object"]
Chars = Annotated[int, Field(ge=0)]


class Check(BaseModel):
    """What an answer is held against; what is left out is not looked at.

    + pattern: a regular expression that is found in the answer
    + json_shape: `json` in the file; the answer is an object that has these keys, of these kinds
    + thinking_chars_min, thinking_chars_max: length of the thinking part in characters
    + seconds_max: from the request to the end of the answer
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    pattern: str | None = None
    json_shape: dict[str, Kind] | None = Field(default=None, alias="json")
    thinking_chars_min: Chars | None = None
    thinking_chars_max: Chars | None = None
    seconds_max: Annotated[float, Field(gt=0, le=3600)] | None = None

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _has_one(self) -> "Check":
        if not self.model_fields_set:
            raise ValueError("checks nothing")
        return self


class Prompt(BaseModel):
    """One prompt with its checks; `name` is what the report calls it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")]
    prompt: Annotated[str, Field(min_length=1, max_length=16384)]
    check: Check


class Golden(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _names_differ(self) -> "Golden":
        names = [prompt.name for prompt in self.prompts]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two prompts have the name {sorted(twice)[0]!r}")
        return self


class Answer(BaseModel):
    """What a model said to one prompt; `failed` says why it does not hold, None when it does."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    answer: str
    thinking_chars: int
    tokens_per_s: float
    seconds: float
    failed: str | None


def parse(text: str) -> Golden:
    """Read golden.yaml. Raises ValueError with the first fault, and where it is."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML: {' '.join(str(error).split())}") from error
    try:
        return Golden.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        what = fault["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {what}" if place else what) from error


@cache
def load(path: str) -> Golden:
    """The prompts of a file on this machine. Raises ValueError and OSError."""
    return parse(Path(path).expanduser().read_text(encoding="utf-8"))


def checked_path(path: str) -> str:
    """The path of a file that can be read and used."""
    try:
        load(path)
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise Bad(f"cannot be used: {what}", "see docs/alias.md for its form") from error
    return path


def judge(check: Check, reply: Mapping[str, Any], code: str, seconds: float) -> Answer:
    """An answer of /api/chat held against its checks."""
    message = reply.get("message")
    message = message if isinstance(message, dict) else {}
    answer, thinking = str(message.get("content", "")), str(message.get("thinking") or "")
    duration_ns, count = _number(reply, "eval_duration"), _number(reply, "eval_count")
    if code == "200":
        failed = next(_faults(check, answer, len(thinking), seconds), None)
    else:
        failed = str(reply.get("error") or f"HTTP {code}")[:200]
    return Answer(
        answer=answer.strip()[:400],
        thinking_chars=len(thinking),
        tokens_per_s=round(count / duration_ns * 1e9, 1) if duration_ns else 0.0,
        seconds=round(seconds, 2),
        failed=failed,
    )


def _number(reply: Mapping[str, Any], key: str) -> float:
    value = reply.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _faults(check: Check, answer: str, thinking_chars: int, seconds: float) -> Iterator[str]:
    if check.pattern is not None and not re.search(check.pattern, answer):
        yield f"the pattern {check.pattern!r} is not in the answer"
    if check.json_shape is not None:
        yield from _shape_faults(check.json_shape, answer)
    least, most = check.thinking_chars_min, check.thinking_chars_max
    if least is not None and thinking_chars < least:
        yield f"it thought {thinking_chars} characters, at least {least} are wanted"
    if most is not None and thinking_chars > most:
        yield f"it thought {thinking_chars} characters, at most {most} are wanted"
    if check.seconds_max is not None and seconds > check.seconds_max:
        yield f"it took {seconds:.1f} s, at most {check.seconds_max:g} s are wanted"


def _shape_faults(shape: Mapping[str, Kind], answer: str) -> Iterator[str]:
    # Models like to put it into a fence of Markdown.
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", answer, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else answer)
    except ValueError:
        yield "the answer is no JSON"
        return
    if not isinstance(found, dict):
        yield "the answer is no JSON object"
        return
    for key, kind in shape.items():
        value = found.get(key)
        is_bool = isinstance(value, bool) and kind != "boolean"
        if is_bool or not isinstance(value, KINDS[kind]):
            yield f"the JSON has no {kind} {key!r}"


def compared(
    golden: Golden, old: Mapping[str, Answer], new: Mapping[str, Answer]
) -> list[dict[str, Any]]:
    """Both sides of every prompt for the report; `verdict` is as before, better or worse."""
    rows = []
    for prompt in golden.prompts:
        before, after = old.get(prompt.name), new.get(prompt.name)
        passed, passes = (one is not None and one.failed is None for one in (before, after))
        verdict = "as before" if passed == passes else "better" if passes else "worse"
        rows.append(
            {
                "prompt": prompt.name,
                "old": before.model_dump() if before else None,
                "new": after.model_dump() if after else None,
                "verdict": verdict,
            }
        )
    return rows


def worse(rows: list[dict[str, Any]]) -> str | None:
    """What failed that passed before, in one line; None when nothing did."""
    found = [row for row in rows if row["verdict"] == "worse"]
    if not found:
        return None
    first = found[0]
    why = first["new"]["failed"] if first["new"] else "it gave no answer"
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return f"{first['prompt']!r} passed before and fails now: {why}{more}"
