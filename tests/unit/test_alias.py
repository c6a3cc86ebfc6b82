"""What the alias should be, from settings, records and the manifests of a host."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet import decide
from r1fleet.alias import wanted as alias
from r1fleet.alias.wanted import AliasWanted, Rendered, digest_of, render
from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.model.manifest import ManifestError, manifest_path, parse
from r1fleet.settings import Settings, SettingsError, read
from tests.unit.build import bare, working

CONFIG = b'{"model_format":"gguf","rootfs":{"type":"layers","diff_ids":["sha256:old"]}}'
PARAMS = '{"stop":["<\uff5cUser\uff5c>"],"temperature":0.6}'.encode()
IMAGE = "application/vnd.ollama.image."


def layer(kind: str, content: bytes, size: int | None = None) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(content), "size": size or len(content)}


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "m",
        "config": layer("c", CONFIG),
        "layers": [
            layer(f"{IMAGE}model", b"weights", 9_000_000),
            layer(f"{IMAGE}template", b"{{ .System }}"),
            layer(f"{IMAGE}params", PARAMS),
        ],
    }
).encode()
BLOBS = {digest_of(CONFIG): CONFIG, digest_of(PARAMS): PARAMS}
WEIGHTS = digest_of(b"weights")


def want(**changes: Any) -> AliasWanted:
    plain = AliasWanted(("deepseek-r1:fleet",), "deepseek-r1:14b", digest_of(MANIFEST), WEIGHTS)
    return replace(plain, **changes)


def test_without_anything_of_its_own_it_is_the_models_manifest_byte_for_byte() -> None:
    assert render(want(), MANIFEST, {}) == Rendered(MANIFEST)
    assert want().rendering == ""


def test_system_prompt_and_parameters_become_layers_over_the_same_weights() -> None:
    made = render(want(system="Be <brief>", parameters={"temperature": 1.0}), MANIFEST, BLOBS)
    layers = {one["mediaType"]: one for one in json.loads(made.manifest)["layers"]}
    assert layers[f"{IMAGE}model"]["digest"] == WEIGHTS
    blob = {digest_of(content): content for content in made.blobs.values()}
    assert blob[layers[f"{IMAGE}system"]["digest"]] == b"Be <brief>"
    # As Go writes it: sorted, 1 for 1.0, and no character that HTML knows.
    text = blob[layers[f"{IMAGE}params"]["digest"]]
    assert text == '{"stop":["\\u003c\uff5cUser\uff5c\\u003e"],"temperature":1}\n'.encode()
    config = json.loads(blob[json.loads(made.manifest)["config"]["digest"]])
    assert config["rootfs"]["diff_ids"] == [one["digest"] for one in layers.values()]
    assert config["model_format"] == "gguf"


TEXTS = st.text(max_size=40)


@given(TEXTS, st.dictionaries(st.sampled_from(["temperature", "top_p"]), st.floats(0, 2)))
def test_what_is_rendered_is_a_whole_manifest(system: str, parameters: dict[str, float]) -> None:
    wanted = want(system=system or None, parameters=parameters)
    made = render(wanted, MANIFEST, BLOBS)
    found = parse(made.manifest)
    assert made.digest == found.digest
    assert alias.weights(found.blobs) == WEIGHTS
    sizes = {blob.digest: blob.size_bytes for blob in found.blobs}
    assert all(sizes[digest_of(content)] == len(content) for content in made.blobs.values())
    if parameters:
        (params,) = (x for x in json.loads(made.manifest)["layers"] if "params" in x["mediaType"])
        content = made.blobs[params["digest"].replace(":", "-")]
        assert json.loads(content) == {**json.loads(PARAMS), **parameters}


@given(st.binary(max_size=60))
def test_a_damaged_manifest_is_no_traceback(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        render(want(system="x"), raw, BLOBS)


def host(state: dict[str, Any], **manifests: str) -> Probe:
    found = {manifest_path(name.replace("__", ":")): digest for name, digest in manifests.items()}
    store = ModelStore(kind="directory", manifests=found)
    return bare("T4", driver=working("T4"), state=state, models=store)


def recorded(wanted: AliasWanted) -> dict[str, Any]:
    return {"alias": alias.entry(wanted, render(wanted, MANIFEST, BLOBS), {})}


def test_it_is_settled_only_while_record_and_manifest_agree() -> None:
    state, digest = recorded(want()), want().digest.removeprefix("sha256:")
    path = "deepseek-r1:fleet"
    settled = host(state, **{path: digest})
    assert alias.is_settled(want(), settled)
    assert not alias.is_settled(want(), host(state, **{path: "0" * 64}))
    assert not alias.is_settled(want(), host(state))
    assert not alias.is_settled(want(system="x"), settled)
    assert not alias.is_settled(want(names=(path, f"{path}-14b")), settled)
    assert not alias.is_settled(want(names=()), settled)  # what was there has to go
    assert alias.is_settled(want(names=()), host({}))
    prompt = want(system="x")
    state = recorded(prompt)
    probe = host(state, **{path: state["alias"]["digest"].removeprefix("sha256:")})
    assert not alias.is_settled(prompt, probe)  # its blobs are gone
    whole = replace(probe, models=replace(probe.models, blobs=state["alias"]["blobs"]))
    assert alias.is_settled(prompt, whole)


def test_names_that_are_no_longer_wanted_go_unless_somebody_else_has_them() -> None:
    wanted, path = want(names=("a:fleet", "a:fleet-32b")), "a:fleet-32b"
    state, digest = recorded(wanted), want().digest.removeprefix("sha256:")
    probe = host(state, **{path: digest})
    now = want(names=("a:fleet",))
    assert alias.leftovers(now, state, probe.models) == [(path, want().digest)]
    assert alias.leftovers(now, state, host(state, **{path: "0" * 64}).models) == []


def test_a_name_that_somebody_else_uses_is_told() -> None:
    settings, choice = Settings(), decide.size(Settings(), host({})).sizing.chosen
    assert alias.foreign(settings, choice, host({})) is None
    stranger = host({}, **{"deepseek-r1:fleet": "0" * 64})
    assert alias.foreign(settings, choice, stranger) == "deepseek-r1:fleet"
    ours = replace(stranger, state={"alias": {"known": [["sha256:" + "0" * 64, WEIGHTS]]}})
    assert alias.foreign(settings, choice, ours) is None


def test_the_class_is_one_name_more() -> None:
    choice = decide.size(Settings(), host({})).sizing.chosen
    assert alias.names(Settings(alias_class=True), choice) == (
        "deepseek-r1:fleet",
        "deepseek-r1:fleet-14b",
    )
    assert alias.names(Settings(alias=None, alias_class=True), choice) == ()


def test_a_row_of_ps_belongs_to_every_name_of_the_same_weights() -> None:
    state: dict[str, Any] = {
        "alias": {"known": [["sha256:a", WEIGHTS], ["sha256:b", "sha256:other"]]},
        "models": {"m:x": {"digest": "sha256:c", "layers": [{"digest": WEIGHTS, "size": 9}]}},
        "former": [{"name": "m:y", "digest": "sha256:d", "layers": [{"digest": "o", "size": 1}]}],
    }
    assert alias.same_weights(state, WEIGHTS) == {"a", "c"}


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(["alias", "former", "models"]), JSON))
def test_a_damaged_record_counts_as_none(state: dict[str, Any]) -> None:
    assert alias.same_weights(state, WEIGHTS) == frozenset()
    assert not alias.is_settled(want(), host(state))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"alias": "deepseek-r1:14b"}, "name of a model"),
        ({"alias": "deepseek-r1"}, "no"),
        ({"alias": "x:latest"}, "name of a model"),
        ({"alias": "x:a-cloud"}, "keeps for itself"),
        ({"alias_parameters": {"num_ctx": 8192}}, "ollama_context_length"),
        ({"alias_parameters": {"temprature": 1}}, "unknown parameter"),
        ({"alias_parameters": {"seed": True}}, "no number for seed"),
        ({"alias_parameters": {"stop": "x"}}, "list of texts"),
        ({"alias_system": "a\x00b"}, "control character"),
        ({"keep_tags": -1}, "at least 0"),
        ({"drain_timeout_s": 4000}, "at most 3600"),
        ({"to": "yesterday"}, "not a date"),
        ({"golden": "/nowhere/golden.yaml"}, "No such file"),
    ],
)
def test_settings_that_cannot_be_used(data: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read("h", data)


def test_blanks_are_no_system_prompt_and_dates_end_with_their_day() -> None:
    assert read("h", {"alias_system": " \n"}).alias_system is None
    assert read("h", {"to": 20261124}).to == "2026-11-24T23:59:59+00:00"
    assert read("h", {"to": "2026-11-24T10:00:00+02:00"}).to == "2026-11-24T08:00:00+00:00"
