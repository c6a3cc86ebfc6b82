"""Manifests: what is taken for one, what a host lacks, how much room it needs."""

import hashlib
import json
from typing import Any

import pytest

from r1fleet.hostfacts import ModelStore
from r1fleet.model.manifest import (
    GIB,
    Blob,
    ManifestError,
    ModelManifest,
    ModelWanted,
    accepted_digest,
    bytes_to_fetch,
    human,
    missing,
    parse,
    recorded,
    reserve_bytes,
    state_entry,
)

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
WANT = ModelWanted("deepseek-r1:14b", "http://198.18.77.1:5000", "/srv/models")


def served(**changes: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "c", "digest": A, "size": 100},
        "layers": [{"mediaType": "m", "digest": B, "size": 5000}],
    }
    return json.dumps(document | changes).encode()


def layer(digest: str, size: object) -> dict[str, object]:
    return {"mediaType": "m", "digest": digest, "size": size}


def test_identity_is_the_sum_of_the_bytes_as_served() -> None:
    raw = served()
    found = parse(raw)
    assert found.digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    assert found.blobs == (Blob(B, 5000), Blob(A, 100))
    assert found.size_bytes == 5100
    assert parse(raw + b"\n").digest != found.digest


def test_a_blob_that_stands_twice_counts_once() -> None:
    assert parse(served(layers=[layer(B, 5000), layer(B, 5000)])).size_bytes == 5100


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"<html>sign in</html>", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (served(schemaVersion=1), "schemaVersion"),
        (served(layers=[]), "layers"),
        (served(layers=[layer("sha256:../../etc/passwd", 1)]), "layers.0.digest"),
        (served(layers=[layer(B + "\n", 1)]), "layers.0.digest"),
        (served(layers=[layer(B.upper(), 1)]), "layers.0.digest"),
        (served(layers=[layer(B, -1)]), "layers.0.size"),
        (served(layers=[layer(B, 0)]), "layers.0.size"),
        (served(layers=[layer(B, "5000")]), "layers.0.size"),
        (served(layers=[layer(B, 1 << 60)]), "layers.0.size"),
        (served(layers=[layer(B, 1), layer(B, 2)]), "two sizes"),
        (served(config=None), "config"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_place(raw: bytes, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        parse(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "deepseek-r1"},
        {"name": "../deepseek-r1:14b"},
        {"name": "deepseek-r1:14b; reboot"},
        {"registry_url": "ftp://registry"},
        {"registry_url": "http://registry$(reboot)"},
        {"models_dir": "models"},
        {"models_dir": "/srv/models\nblob x"},
        {"digest": "c333b7232bdb"},
        {"rate_limit": "fast"},
        {"engine_url": "http://host/ -o /etc/passwd"},
    ],
)
def test_nothing_unsafe_gets_into_a_job(changes: dict[str, str]) -> None:
    values: dict[str, Any] = {
        "name": WANT.name,
        "registry_url": WANT.registry_url,
        "models_dir": WANT.models_dir,
    }
    with pytest.raises(ValueError, match=next(iter(changes))):
        ModelWanted(**(values | changes))


def test_where_things_lie() -> None:
    assert WANT.manifest_path == "registry.ollama.ai/library/deepseek-r1/14b"
    assert WANT.repository_url == "http://198.18.77.1:5000/v2/library/deepseek-r1"
    own = ModelWanted("team/own:7b", "https://registry", "/srv/models")
    assert own.manifest_path == "registry.ollama.ai/team/own/7b"
    assert own.repository_url == "https://registry/v2/team/own"


def test_rates_are_binary_numbers() -> None:
    rates = [None, "500", "64K", "20M", "1G"]
    wanted = [ModelWanted("m:1", "http://r", "/m", rate_limit=rate) for rate in rates]
    assert [want.bytes_per_s for want in wanted] == [0, 500, 64 << 10, 20 << 20, 1 << 30]


def test_a_record_is_read_back_for_its_digest_only() -> None:
    manifest = ModelManifest(C, (Blob(B, 5000), Blob(A, 100)))
    state = {"models": {WANT.name: state_entry(manifest)}}
    assert recorded(state, WANT.name, C) == manifest
    assert recorded(state, WANT.name, A) is None
    assert recorded(state, "deepseek-r1:7b", C) is None


@pytest.mark.parametrize(
    "state", [{}, {"models": None}, {"models": []}, {"models": {WANT.name: {"digest": C}}}]
)
def test_a_damaged_record_is_no_record(state: dict[str, Any]) -> None:
    assert recorded(state, WANT.name, C) is None


def test_only_the_pinned_digest_is_accepted_any_without_a_pin() -> None:
    store = ModelStore(manifests={WANT.manifest_path: "c" * 64})
    pinned = ModelWanted(WANT.name, WANT.registry_url, WANT.models_dir, digest=A)
    assert accepted_digest(WANT, store) == C
    assert accepted_digest(pinned, store) is None
    assert accepted_digest(WANT, ModelStore()) is None


def test_a_blob_of_the_wrong_size_is_missing() -> None:
    manifest = ModelManifest(C, (Blob(B, 5000), Blob(A, 100)))
    assert missing(manifest, {"sha256-" + "b" * 64: 4999}) == manifest.blobs
    assert missing(manifest, {"sha256-" + "b" * 64: 5000}) == (Blob(A, 100),)


def test_what_is_staged_need_not_come_again() -> None:
    lacking = (Blob(B, 5000), Blob(A, 100))
    assert bytes_to_fetch(lacking, {}) == 5100
    assert bytes_to_fetch(lacking, {"b" * 64: 4096, "a" * 64: 4096}) == 904


def test_reserve_is_five_per_cent_and_at_most_one_gib() -> None:
    assert reserve_bytes(10 * GIB) == GIB // 2
    assert reserve_bytes(1000 * GIB) == GIB


def test_sizes_for_people() -> None:
    assert [human(size) for size in (12, 1500, 23_400_000, 8_988_112_209)] == [
        "12 B",
        "1.5 kB",
        "23.4 MB",
        "9.0 GB",
    ]
