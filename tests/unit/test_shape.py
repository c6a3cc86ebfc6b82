"""Any other model of the library: its shape from the head of its file, and what then fits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.engine import shapes
from r1fleet import catalog, decide, memory
from r1fleet.cli import main
from r1fleet.settings import Settings, SettingsError, read
from r1fleet.shape import ShapeError, other_model
from r1fleet.verify.smoke import _variables
from tests.unit.build import bare, working
from tests.unit.registry import Registry, serve, sha256

NAME = "llama3.1:8b"
T4 = bare("T4", driver=working("T4"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first bytes of a file of the true shape, past its head."""
    path = tmp_path_factory.mktemp("shape") / "model.gguf"
    shapes.write(path, shapes.SHAPES["8b-llama"], "q4_K_M")
    with path.open("rb") as file:
        return file.read(8 << 20)


@pytest.fixture
def registry(gguf: bytes) -> Iterator[Registry]:
    with serve() as found:
        digest = f"sha256:{sha256(gguf)}"
        found.blobs[digest] = gguf
        layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
        served = json.loads(found.manifest)
        served["layers"] = [*served["layers"], {**layer, "size": 4_920_738_407}]
        found.manifest = json.dumps(served).encode()
        yield found


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A catalog/local.yaml that is read instead of the directory's own."""
    monkeypatch.setattr(catalog, "LOCAL", tmp_path / "local.yaml")
    caches = (catalog._own, catalog.others)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path / "local.yaml"
    for cached in caches:
        cached.cache_clear()


def test_a_shape_comes_by_ranges_and_agrees_with_the_catalogue(registry: Registry) -> None:
    found = other_model(NAME, registry.url)
    known = catalog.find_tag("8b-llama-distill-q4_K_M")
    assert found.shape == known.shape
    weights = memory.weights(known)
    assert abs(sum(found.tensors.layers) - sum(weights.layers)) < 1 << 20
    assert abs(found.tensors.output - weights.output) < 1 << 20
    assert found.tensors.embedding == weights.embedding
    assert found.digest == f"sha256:{sha256(registry.manifest)}"
    ranges = [wanted for path, wanted in registry.requests if path.startswith("/elsewhere/")]
    assert ranges[0] == "bytes=0-1048575"
    read_bytes = sum(int(last) - int(first) + 1 for first, last in map(span, ranges))
    assert read_bytes <= 16 << 20


def span(wanted: str | None) -> tuple[str, str]:
    first, _, last = str(wanted).removeprefix("bytes=").partition("-")
    return first, last


def test_what_is_printed_makes_the_model_choosable(registry: Registry, own: Path) -> None:
    done = CliRunner().invoke(main, ["shape", NAME, "--registry-url", registry.url])
    assert done.exit_code == 0, done.output
    own.write_text(done.output)
    settings = read("h", {"model": "llama3.1", "tag": "8b"})
    choice = decide.size(settings, T4).sizing.chosen
    assert (choice.tag, choice.model.long_name, choice.placement) == ("8b", NAME, "gpu")
    want = decide.model_wanted(settings, choice)
    assert want.name == NAME
    assert want.catalogue_digest == f"sha256:{sha256(registry.manifest)}"
    proof = decide.proof_wanted(settings, choice, "", T4)
    assert "think" not in json.loads(_variables(proof)["R1_CHAT"])
    # R1's own tag of that name is another model still.
    r1 = decide.size(read("h", {"tag": "8b"}), T4).sizing.chosen
    assert r1.model.long_name == "8b-0528-qwen3-q4_K_M"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"model": "llama3.1", "tag": "8b"}, "`r1fleet shape llama3.1:8b`"),
        ({"model": "llama3.1"}, "only deepseek-r1 is chosen by size"),
        ({"tag": "13b"}, "is not a known tag"),
    ],
)
def test_an_unknown_model_is_refused_with_the_way_to_name_it(
    own: Path, data: dict[str, object], told: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read("h", data)
    (line,) = refused.value.lines
    assert told in line


def test_r1_in_another_namespace_is_sized_as_before() -> None:
    settings = Settings(model="mirror/deepseek-r1")
    choice = decide.size(settings, T4).sizing.chosen
    assert decide.model_wanted(settings, choice).name == "mirror/deepseek-r1:14b"


def test_an_output_that_is_the_embedding_counts_twice(registry: Registry) -> None:
    whole = other_model(NAME, registry.url)
    (digest, data) = next(item for item in registry.blobs.items() if item[1].startswith(b"GGUF"))
    registry.blobs[digest] = data.replace(b"output.weight", b"absent.weight")
    tied = other_model(NAME, registry.url)
    assert tied.tensors.output == whole.tensors.output + whole.tensors.embedding


def test_trouble_is_one_line(registry: Registry) -> None:
    registry.ranges = False  # the whole file is sent: its head still comes first
    assert other_model(NAME, registry.url).shape.layers == 32
    damaged = dict.fromkeys(registry.blobs, b"GGUF" + b"\xff" * 4096)
    registry.blobs = damaged
    with pytest.raises(ShapeError, match="version"):
        other_model(NAME, registry.url)
    registry.manifest = b"{}"
    with pytest.raises(ShapeError, match="schemaVersion"):
        other_model(NAME, registry.url)
    registry.status = 404
    with pytest.raises(ShapeError, match="HTTP 404"):
        other_model(NAME, registry.url)
    done = CliRunner().invoke(main, ["shape", "no name", "--registry-url", registry.url])
    assert done.exit_code == 2
    assert "no usable model" in done.output
