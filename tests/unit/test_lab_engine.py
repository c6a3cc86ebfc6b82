"""The parts of the lab's engine that need no build: shapes, tiny models, manifests, archive."""

import hashlib
import json
from pathlib import Path

import gguf
import pytest

from lab.engine import archive, binaries, registry, shapes, tiny

# Sizes of the published models (all layers), from public dumps of /api/tags.
PUBLISHED_BYTES = {
    "1.5b": 1_117_322_768,
    "7b": 4_683_075_440,
    "8b": 5_225_376_047,
    "8b-llama": 4_920_738_407,
    "14b": 8_988_112_209,
    "32b": 19_851_337_809,
    "70b": 42_520_397_873,
}
PUBLISHED_Q8_GB = {"1.5b": 1.89, "7b": 8.09, "14b": 15.70, "32b": 34.81, "70b": 74.97}


@pytest.mark.parametrize("name", PUBLISHED_BYTES)
def test_shape_has_the_published_size(name: str) -> None:
    size = shapes.size_bytes(shapes.SHAPES[name], "q4_K_M")
    assert size == pytest.approx(PUBLISHED_BYTES[name], rel=1e-3)


@pytest.mark.parametrize("name", PUBLISHED_Q8_GB)
def test_shape_has_the_published_size_in_q8(name: str) -> None:
    size = shapes.size_bytes(shapes.SHAPES[name], "q8_0")
    assert size / 1e9 == pytest.approx(PUBLISHED_Q8_GB[name], rel=5e-3)


def test_shape_file_is_true_to_size_and_sparse(tmp_path: Path) -> None:
    shape = shapes.SHAPES["14b"]
    path = tmp_path / "14b.gguf"
    shapes.write(path, shape, "q4_K_M")
    assert path.stat().st_size == pytest.approx(PUBLISHED_BYTES["14b"], rel=1e-3)
    assert path.stat().st_blocks * 512 < 1_000_000
    # Its reader maps the file, it does not read it.
    reader = gguf.GGUFReader(path)
    assert [tensor.name for tensor in reader.tensors] == [
        tensor.name for tensor in shapes.tensors(shape, "q4_K_M")
    ]
    assert reader.fields["qwen2.block_count"].contents() == 48


def test_tiny_model_names_its_shape_and_answers_with_its_word(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tiny.write(path, "a name", "14b", answer="STEADY", payload_bytes=1000)
    fields = gguf.GGUFReader(path).fields
    assert fields["r1lab.shape"].contents() == "14b"
    assert fields["general.name"].contents() == "a name"
    assert "STEADY" in fields["tokenizer.ggml.tokens"].contents()
    plain = tmp_path / "plain.gguf"
    tiny.write(plain, "a name", "14b", answer="STEADY")
    assert path.stat().st_size == plain.stat().st_size + 1000


def test_models_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    registry.write_models(tmp_path / "first")
    registry.write_models(tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / side / "manifests").iterdir()}
        for side in ("first", "second")
    )
    assert first == second
    assert first["latest"] == first["8b"] == first["8b-0528-qwen3-q4_K_M"]
    distinct = {hashlib.sha256(manifest).digest() for manifest in first.values()}
    assert len(distinct) == len(registry.tags())


def test_manifest_describes_its_blobs(tmp_path: Path) -> None:
    tag = registry.Tag("14b-qwen-distill-q4_K_M", "14b", "q4_K_M")
    manifest = json.loads(registry.add_model(tmp_path, tag))
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]]
    assert kinds == ["model", "template", "license", "params"]
    for blob in (*manifest["layers"], manifest["config"]):
        data = (tmp_path / "blobs" / blob["digest"].replace(":", "-")).read_bytes()
        assert len(data) == blob["size"]
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == blob["digest"]
    config_path = tmp_path / "blobs" / manifest["config"]["digest"].replace(":", "-")
    config = json.loads(config_path.read_bytes())
    assert (config["model_type"], config["file_type"]) == ("14.8B", "Q4_K_M")
    assert config["model_family"] == "qwen2"


def test_archive_has_the_official_layout_and_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    files = {"lib/ollama/llama-server": source, "bin/ollama": source}
    first = archive.write(tmp_path / "first", files)
    assert first == archive.write(tmp_path / "second", dict(reversed(files.items())))
    checksums = (tmp_path / "first" / "sha256sum.txt").read_text()
    assert checksums == f"{first}  ./ollama-linux-amd64.tar.zst\n"


def test_binary_for_a_newer_system_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "program"
    binary.write_bytes(b"\0GLIBC_2.4\0GLIBC_2.38\0")
    with pytest.raises(binaries.EngineError, match=r"program needs glibc 2\.38"):
        binaries.check_glibc(binary)
    binary.write_bytes(b"\0GLIBC_2.4\0GLIBC_2.36\0")
    binaries.check_glibc(binary)


def test_interrupted_part_leaves_nothing_finished(tmp_path: Path) -> None:
    def fail(work: Path, result: Path) -> None:
        (work / "kept").touch()
        (result / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        binaries.part(tmp_path, "name", "key", fail)

    def finish(work: Path, result: Path) -> None:
        assert (work / "kept").exists()
        (result / "whole").touch()

    result = binaries.part(tmp_path, "name", "key", finish)
    assert [path.name for path in result.iterdir()] == ["whole"]
    assert binaries.part(tmp_path, "name", "key", fail) == result


def test_failed_step_says_what_it_printed(tmp_path: Path) -> None:
    shown: list[str] = []
    argv = ["sh", "-c", "echo the reason; exit 3"]
    with pytest.raises(binaries.EngineError, match=r"`sh` ended with 3:\nthe reason"):
        binaries.run("step", argv, shown.append, cwd=tmp_path)
    assert shown == ["step: 0 s the reason"]
