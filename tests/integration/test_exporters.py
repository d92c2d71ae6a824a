"""transformers.exporters and `torch.export` on flat batches, with a plan and without."""

import logging

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from integration.uses import BOXES, END, flat_batch, new_model, planned


is_old = TorchVersion(torch.__version__) < (2, 11)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(is_old, reason="transformers' exporters need torch 2.11")]

FIELDS = ("image_embeds", "text_embeds", "contextualized_embeds", "logits_per_image")


@pytest.fixture
def model(tiny_clip_config):
    return new_model(tiny_clip_config)


def other_batch():
    """Of other numbers of images and texts than `flat_batch`."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 500, (5, 21), generator=generator)
    for text, length in enumerate([21, 7, 3, 12, 9]):
        ids[text, length - 1 :] = END
    return {
        "pixel_values": torch.randn(2, 3, 32, 32, generator=generator),
        "input_ids": ids,
        "image_index": torch.tensor([0, 0, 0, 1, 1]),
        "granularity": torch.tensor([0, 2, 2, 0, 1]),
    }


def varying_sizes():
    """Numbers of images, texts and columns. Left to itself, torch takes three images for three colours."""
    size = torch.export.Dim.AUTO
    texts = {"image_index": {0: size}, "granularity": {0: size}, "input_ids": {0: size, 1: size}}
    return {"pixel_values": {0: size}, **texts}


def assert_same_outputs(outputs, model, batch):
    with torch.no_grad():
        expected = model(**batch)
    for field in FIELDS:
        torch.testing.assert_close(outputs[field], expected[field], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_plan", [False, True], ids=["no plan", "plan"])
def test_dynamo(model, has_plan):
    dynamo = pytest.importorskip("transformers.exporters.exporter_dynamo")
    batch = planned(flat_batch(), model) if has_plan else flat_batch()
    exported = dynamo.DynamoExporter().export(model, dict(batch), config=dynamo.DynamoConfig())
    assert_same_outputs(exported.program.module()(**batch), model, batch)


def test_dynamo_with_sizes_that_vary(model):
    dynamo = pytest.importorskip("transformers.exporters.exporter_dynamo")
    config = dynamo.DynamoConfig(dynamic=True, dynamic_shapes=varying_sizes())
    exported = dynamo.DynamoExporter().export(model, flat_batch(), config=config)
    program = exported.program.module()
    for batch in (flat_batch(), other_batch()):
        assert_same_outputs(program(**batch), model, batch)


@pytest.mark.parametrize("has_plan", [False, True], ids=["no plan", "plan"])
def test_onnx(model, has_plan):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("transformers.exporters.exporter_onnx")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = planned(flat_batch(), model) if has_plan else flat_batch()
    config = onnx.OnnxConfig()
    if not has_plan:
        config = onnx.OnnxConfig(dynamic=True, dynamic_shapes=varying_sizes())
    exported = onnx.OnnxExporter().export(model, dict(batch), config=config)
    assert_same_outputs(exported(**batch), model, batch)
    if not has_plan:
        assert_same_outputs(exported(**other_batch()), model, other_batch())


class Method(nn.Module):
    def __init__(self, model, name):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *args, **kwargs):
        return getattr(self.model, self.name)(*args, **kwargs)


def calls(model):
    """Arguments of each method beside `forward`."""
    batch = flat_batch()
    with torch.no_grad():
        patches = model.get_patch_features(batch["pixel_values"])
        texts = model.get_text_features(batch["input_ids"]).pooler_output
    image_index = torch.tensor([[0], [2]])
    options = {"image_index": batch["image_index"], "path": "long", "output_attentions": True}
    return {
        "get_patch_features": ((batch["pixel_values"],), {}),
        "get_region_features": ((batch["pixel_values"], BOXES, torch.tensor([2, 0, 0])), {}),
        "score_pairs": ((patches, texts), {}),
        "score_candidates": ((patches, texts, image_index, torch.arange(5)), {}),
        "get_text_conditioned_image_features": ((batch["pixel_values"], batch["input_ids"]), options),
    }


METHODS = (
    "get_patch_features",
    "get_region_features",
    "score_pairs",
    "score_candidates",
    "get_text_conditioned_image_features",
)


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_methods_are_exported(model, name):
    args, kwargs = calls(model)[name]
    program = torch.export.export(Method(model, name), args, kwargs, strict=False).module()
    torch.testing.assert_close(program(*args, **kwargs), getattr(model, name)(*args, **kwargs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_methods_are_one_graph(model, name):
    args, kwargs = calls(model)[name]
    compiled = torch.compile(getattr(model, name), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args, **kwargs), getattr(model, name)(*args, **kwargs), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_scores_of_any_numbers_are_exported(model):
    any_size = torch.export.Dim.AUTO
    args, _ = calls(model)["score_pairs"]
    shapes = (({0: any_size}, {0: any_size}),)
    program = torch.export.export(Method(model, "score_pairs"), args, strict=False, dynamic_shapes=shapes).module()
    patches, texts = args
    torch.testing.assert_close(
        program(patches[:2], texts[:5]), model.score_pairs(patches[:2], texts[:5]), rtol=1e-5, atol=1e-5
    )


def test_scores_have_a_gradient_in_a_graph(model):
    patches, texts = calls(model)["score_pairs"][0]
    gradients = []
    for score in (model.score_pairs, torch.compile(model.score_pairs, fullgraph=True, backend="aot_eager")):
        leaf = patches.clone().requires_grad_()
        score(leaf, texts).square().sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_too_many_columns_are_refused(model):
    batch = flat_batch()
    batch["input_ids"] = nn.functional.pad(batch["input_ids"], (0, 60), value=END)
    with torch.no_grad(), pytest.raises(ValueError, match="at most 96 columns in a compiled or exported model"):
        torch.export.export(model, (), batch, strict=False)
