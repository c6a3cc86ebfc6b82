"""The head of a known tag's file, against what reads it, what counts it and what made the lab's."""

import pytest

from lab.engine import shapes
from r1fleet import gguf_head, memory
from r1fleet.catalog import ModelTag, find_tag, models
from r1fleet.engine.gguf_write import ALIGNMENT, head_file, tensors

KNOWN = [model for model in models() if head_file(model)]


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.tag)
def test_the_head_says_what_the_catalogue_knows(model: ModelTag) -> None:
    file = head_file(model)
    assert file
    head = gguf_head.read(file.head)
    assert head.shape == model.shape
    assert [tensor.name for tensor in head.tensors] == [tensor.name for tensor in tensors(model)]
    assert 0 <= file.size_bytes - len(file.head) - head.weights_bytes < ALIGNMENT * 800
    counted = memory.weights(model)
    rope_bytes = 4 * model.shape.head_dim // 2 if model.shape.arch == "llama" else 0
    assert head.weights_bytes == sum(counted.blocks) + counted.embedding + rope_bytes


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.tag)
def test_the_tensors_are_those_of_the_published_files(model: ModelTag) -> None:
    published = shapes.tensors(shapes.SHAPES[model.size], model.quantisation)
    assert [(tensor.name, tensor.lengths, tensor.type) for tensor in tensors(model)] == [
        (tensor.name, tensor.shape, tensor.type.name) for tensor in published
    ]


def test_what_is_not_known_has_no_head() -> None:
    assert {model.size for model in models() if head_file(model) is None} == {"671b"}
    assert head_file(find_tag("14b"))
