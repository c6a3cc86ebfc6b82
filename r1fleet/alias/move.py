"""Operations of the alias: to read what it is made from, to move it, to see that it answers."""

import base64
import json
import shlex
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import paths
from r1fleet.alias.wanted import AliasWanted, Rendered, digest_of, params_digests, render
from r1fleet.model.manifest import ManifestError, manifest_path
from r1fleet.remote import HostFailure, changed, host_task, run, say
from r1fleet.shell import assign, receive

Commands = Generator[FunctionCommand, None, None]

SENT = f"{paths.STATE_DIR}/alias"
_READ = """
cd "$R1_MODELS" || exit 1
base64 -w0 "manifests/$R1_PATH" || exit 1
"""
_MOVE = f"""
chmod 644 {SENT}.new
runuser -u ollama -- env R1_MODELS="$R1_MODELS" R1_SENT={SENT}.new sh -c "$R1_SCRIPT"
code=$?
rm -f {SENT}.new
exit $code
"""


@dataclass
class Alias:
    """An alias on its way. `rendered` is set as soon as its content is known.

    + there: manifests on the host, path below manifests/ -> sha256
    + remove: names that go, with the digest that they must have
    """

    want: AliasWanted
    models_dir: str
    there: Mapping[str, str] = field(default_factory=dict)
    rendered: Rendered | None = None
    remove: list[tuple[str, str]] = field(default_factory=list)

    @property
    def to_move(self) -> list[str]:
        """The names that are not there yet, or hold something else."""
        digest = self.rendered.digest if self.rendered else None
        found = {name: self.there.get(manifest_path(name)) for name in self.want.names}
        return [name for name, sha256 in found.items() if f"sha256:{sha256}" != digest]


@operation()
def read(alias: Alias) -> Commands:
    """Read the model's manifest, and make the alias's from it.

    + alias: filled in with its content
    """
    yield take("alias", f"makes {' and '.join(alias.want.names)}", alias)


@operation()
def move(alias: Alias) -> Commands:
    """Move every name to the model, by one rename each: none is ever without an answer.

    + alias: as left by `read`
    """
    if alias.rendered and not any(_lines(alias, alias.rendered)):
        return  # all is there, as where only our record of it was lost
    words = [f"moves {' and '.join(alias.to_move)} to {alias.want.source}"] if alias.to_move else []
    words += [f"removes {name}" for name, _ in alias.remove]
    yield put("alias", ", ".join(words) or "puts its files in place", alias)


@operation()
def answer(alias: Alias, base_url: str, keep_alive: str | int) -> Commands:
    """See that each name answers from the model that is loaded already.

    + base_url: the engine
    + keep_alive: as in the other requests
    """
    for name in alias.want.names:
        body = {"model": name, "stream": False, "keep_alive": keep_alive or 60}
        yield ask("alias", f"asks {name}", base_url, json.dumps(body))


@host_task
def take(host: Host, stage: str, title: str, alias: Alias) -> None:
    """Read manifest, config and parameters of the model."""
    say(host, stage, title)
    want, what = alias.want, f"the manifest of {alias.want.source}"
    names = {"R1_MODELS": alias.models_dir, "R1_PATH": manifest_path(want.source)}
    manifest = _decoded(what, run(host, assign(names) + _READ).stdout)
    if digest_of(manifest) != want.digest:
        raise HostFailure(what, f"it is no longer {want.digest[:19]}", "run again")
    blobs: dict[str, bytes] = {}
    try:
        for digest in () if want.is_plain else params_digests(manifest):
            path = f"{alias.models_dir}/blobs/{digest.replace(':', '-')}"
            found = run(host, f"base64 -w0 {shlex.quote(path)}")
            blobs[digest] = _decoded(f"the blob {digest[:19]}", found.stdout)
        alias.rendered = render(want, manifest, blobs)
    except ManifestError as error:
        raise HostFailure(what, str(error), "check registry_url") from error


@host_task
def put(host: Host, stage: str, title: str, alias: Alias) -> None:
    """Send blobs and manifests and rename them into place."""
    say(host, stage, title)
    assert alias.rendered
    content = "".join(f"{line}\n" for line in _lines(alias, alias.rendered))
    values = {"R1_MODELS": alias.models_dir, "R1_SCRIPT": _script()}
    script = receive(SENT, content) + assign(values) + _MOVE
    done = run(host, f"install -d -m 755 {paths.STATE_DIR} || exit 1\n{script}", stdin=content)
    if not done.ok:
        fix = "check space and rights of ollama_models; the names still answer as before"
        raise HostFailure(title, done.reason, fix)
    for name in alias.to_move:
        changed(host, f"alias {name} {alias.rendered.digest[:19]}")
    for name, _ in alias.remove:
        changed(host, f"alias {name} removed")


@host_task
def ask(host: Host, stage: str, title: str, base_url: str, body: str) -> None:
    """One request that asks for no text: it ends when the model is loaded."""
    values = assign({"R1_URL": base_url, "R1_BODY": body})
    script = """curl -sS --noproxy '*' -m 300 -H 'Content-Type: application/json' -d "$R1_BODY" \
      -w '\\n%{http_code}' "$R1_URL/api/generate" 2>&1"""
    text, _, code = run(host, values + script, timeout_s=330).stdout.rstrip().rpartition("\n")
    if code != "200":
        why = text.strip()[:300] or f"HTTP {code}"
        raise HostFailure(title, why, "see `journalctl -u ollama`")


def _lines(alias: Alias, rendered: Rendered) -> Generator[str, None, None]:
    for name, content in rendered.blobs.items():
        yield f"blob {name} {base64.b64encode(content).decode()}"
    manifest = base64.b64encode(rendered.manifest).decode()
    for name in alias.to_move:
        yield f"manifest {manifest_path(name)} {manifest}"
    for name, digest in alias.remove:
        yield f"remove {manifest_path(name)} {digest.removeprefix('sha256:')}"


def _decoded(what: str, text: str) -> bytes:
    content = base64.b64decode(text)
    if not content:
        raise HostFailure(what, "it is not on the host", "run again")
    return content


@cache
def _script() -> str:
    text = (resources.files("r1fleet.alias") / "move.sh").read_text(encoding="ascii")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))
