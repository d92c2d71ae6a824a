"""`torch.compile` of a whole flat batch as one graph."""

from inspect import signature

import pytest
import torch
from packaging.version import Version

from integration.uses import BOXES, flat_batch, new_model, planned


pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"), reason="torch.compile of torch 2.6 breaks at transformers' decorators"
)


def test_a_batch_with_a_plan_is_one_graph(tiny_clip_config):
    model = new_model(tiny_clip_config)
    batch = planned(flat_batch(), model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, outputs = model(**batch), compiled(**batch)
    for name in ("image_embeds", "text_embeds", "contextualized_embeds"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_plain_batch_is_one_graph(tiny_clip_config):
    model = new_model(tiny_clip_config)
    batch = {name: flat_batch()[name] for name in ("pixel_values", "input_ids")}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, outputs = model(**batch), compiled(**batch)
        texts = compiled(input_ids=batch["input_ids"])
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(texts["text_embeds"], expected["text_embeds"], rtol=1e-5, atol=1e-5)


def test_a_loss_with_a_plan_is_one_graph(tiny_clip_config):
    model = new_model(tiny_clip_config)
    batch = planned(flat_batch(), model) | {"return_loss": True}
    loss = model(**batch).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    compiled_loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch).loss
    compiled_loss.backward()
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_a_batch_without_a_plan_is_one_graph(tiny_clip_config):
    model = new_model(tiny_clip_config)
    batch = flat_batch() | {"boxes": BOXES, "region_image_index": torch.tensor([0, 2, 2])}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, outputs = model(**batch), compiled(**batch)
    for name in ("image_embeds", "text_embeds", "contextualized_embeds", "region_embeds"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif("reason" not in signature(torch.compiler.disable).parameters, reason="torch shows no reason")
def test_a_loss_without_a_plan_says_what_it_needs(tiny_clip_config):
    model = new_model(tiny_clip_config)
    batch = flat_batch() | {"return_loss": True}
    with pytest.raises(torch._dynamo.exc.Unsupported, match="needs the plan that BetaCLIPDataCollator adds"):
        torch.compile(model, fullgraph=True, backend="aot_eager")(**batch)
    # Without `fullgraph` the plan is made between two graphs.
    loss = torch.compile(model, backend="aot_eager")(**batch).loss
    torch.testing.assert_close(loss, model(**batch).loss, rtol=1e-5, atol=1e-5)
