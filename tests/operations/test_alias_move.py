"""The alias moves by the real script, in a model directory that is a folder here."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from r1fleet import outcome
from r1fleet.alias import move
from r1fleet.alias.wanted import Rendered
from r1fleet.model.manifest import manifest_path
from tests.operations.fakehost import FakeHost
from tests.operations.test_verify_smoke import Engine, engine
from tests.unit.test_alias import BLOBS, MANIFEST, want

__all__ = ["engine"]  # a fixture

RUNUSER = '#!/bin/sh\nshift 3\nexec "$@"\n'


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    found = FakeHost(tmp_path, tmp_path.name)
    found.tool("runuser", RUNUSER)
    for folder in ("blobs", Path("manifests", manifest_path("deepseek-r1:14b")).parent):
        (models(found) / folder).mkdir(parents=True)
    (models(found) / "manifests" / manifest_path("deepseek-r1:14b")).write_bytes(MANIFEST)
    for digest, content in BLOBS.items():
        (models(found) / "blobs" / digest.replace(":", "-")).write_bytes(content)
    return found


def models(host: FakeHost) -> Path:
    return host.root / "a 'model' directory"


def manifest(host: FakeHost, name: str) -> Path:
    return models(host) / "manifests" / manifest_path(name)


def test_it_is_read_rendered_and_moved(host: FakeHost) -> None:
    names = ("deepseek-r1:fleet", "deepseek-r1:fleet-14b")
    system = 'It\'s "quoted" $HOME `id`\n' + "long " * 6000
    alias = move.Alias(want(names=names, system=system), str(models(host)))
    manifest(host, names[0]).write_text("what was there")
    assert host.play(move.read._inner(alias))
    assert alias.rendered
    assert host.play(move.move._inner(alias))
    for name in names:
        assert manifest(host, name).read_bytes() == alias.rendered.manifest
        assert manifest(host, name).stat().st_mode & 0o777 == 0o644
    for name, content in alias.rendered.blobs.items():
        assert (models(host) / "blobs" / name).read_bytes() == content
    assert sorted(path.name for path in models(host).iterdir()) == ["blobs", "manifests"]
    assert list(host.at("/var/lib/r1fleet").iterdir()) == []
    digest = alias.rendered.digest[:19]
    assert outcome.of(host.name).changes == [f"alias {name} {digest}" for name in names]


def test_nothing_moves_when_what_was_sent_is_damaged(host: FakeHost) -> None:
    alias = move.Alias(want(), str(models(host)), rendered=Rendered(MANIFEST))
    manifest(host, "deepseek-r1:fleet").write_text("what was there")
    (command,) = move.move._inner(alias)
    encoded = base64.b64encode(MANIFEST).decode()
    host.tool("cat", f"#!/bin/sh\necho 'manifest x {encoded[:20]}'\n")  # cut in mid-line
    assert not host.play([command])
    assert manifest(host, "deepseek-r1:fleet").read_text() == "what was there"
    assert "did not come whole" in (outcome.of(host.name).failure or "")


def test_a_full_disk_leaves_the_name_as_it_was(host: FakeHost) -> None:
    alias = move.Alias(want(), str(models(host)), rendered=Rendered(MANIFEST))
    manifest(host, "deepseek-r1:fleet").write_text("what was there")
    host.tool("base64", "#!/bin/sh\nexit 1\n")
    assert not host.play(move.move._inner(alias))
    assert manifest(host, "deepseek-r1:fleet").read_text() == "what was there"
    assert "still answer as before" in (outcome.of(host.name).failure or "")


def test_a_name_of_ours_goes_and_one_that_somebody_took_stays(host: FakeHost) -> None:
    mine, taken = "deepseek-r1:fleet-32b", "deepseek-r1:fleet-7b"
    for name in (mine, taken):
        manifest(host, name).write_bytes(MANIFEST)
    digest = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
    manifest(host, taken).write_text("somebody's")
    alias = move.Alias(want(), str(models(host)), rendered=Rendered(MANIFEST))
    alias.remove = [(mine, digest), (taken, digest)]
    assert host.play(move.move._inner(alias))
    assert not manifest(host, mine).exists()
    assert manifest(host, taken).read_text() == "somebody's"


def test_a_name_that_is_right_already_is_not_written_again(host: FakeHost) -> None:
    digest = Rendered(MANIFEST).digest.removeprefix("sha256:")
    there = {manifest_path("a:x"): digest, manifest_path("a:y"): "0" * 64}
    wanted = want(names=("a:x", "a:y"))
    alias = move.Alias(wanted, str(models(host)), there, Rendered(MANIFEST))
    assert host.play(move.move._inner(alias))
    assert outcome.of(host.name).changes == [f"alias a:y sha256:{digest[:12]}"]
    assert not manifest(host, "a:x").exists()


def test_nothing_is_sent_where_all_is_there_and_only_the_record_was_lost(host: FakeHost) -> None:
    """Nothing at all would not be sent, and looked like a transfer that was cut."""
    digest = Rendered(MANIFEST).digest.removeprefix("sha256:")
    there = {manifest_path("a:x"): digest}
    alias = move.Alias(want(names=("a:x",)), str(models(host)), there, Rendered(MANIFEST))
    assert list(move.move._inner(alias)) == []


def test_a_model_that_was_replaced_meanwhile_is_not_taken(host: FakeHost) -> None:
    manifest(host, "deepseek-r1:14b").write_text("another")
    assert not host.play(move.read._inner(move.Alias(want(), str(models(host)))))
    assert "no longer" in (outcome.of(host.name).failure or "")


def test_each_name_is_asked_and_a_refusal_is_told(host: FakeHost, engine: Engine) -> None:
    alias = move.Alias(want(names=("a:x", "a:y")), str(models(host)))
    assert host.play(move.answer._inner(alias, engine.url, -1))
    assert [body["model"] for _, body in engine.asked] == ["a:x", "a:y"]
    assert [body["keep_alive"] for _, body in engine.asked] == [-1, -1]
    engine.answers["/api/generate"] = (404, json.dumps({"error": "model 'a:x' not found"}))
    assert not host.play(move.answer._inner(alias, engine.url, -1))
    assert "model 'a:x' not found" in (outcome.of(host.name).failure or "")
