"""Selective recomputation: the same gradients, less kept, and no matrix product done twice."""

from typing import NamedTuple

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint
from torch.utils.flop_counter import FlopCounterMode

from beta_clip_hf.training.callbacks import recomputation
from beta_clip_hf.training.callbacks.recomputation import keep_linear_outputs
from training.tiny_runs import TensorCollator, TensorRows


pytestmark = pytest.mark.slow


class Step(NamedTuple):
    loss: float
    gradients: dict[str, torch.Tensor]
    products: int
    """Floating-point operations of the products with weights."""


def step(model, batch, autocast=False):
    """Runs a step without an optimiser."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
    flops = counter.get_flop_counts()["Global"]
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return Step(loss.item(), gradients, flops[torch.ops.aten.addmm] + flops[torch.ops.aten.mm])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated")  # its new name is unknown to 5.17
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_are_the_same_and_no_product_with_weights_is_done_twice(tiny_model, autocast, dropout):
    rows = TensorRows(3)
    batch = TensorCollator()([rows[index] for index in range(3)])
    tiny_model.train()
    for module in tiny_model.modules():
        if hasattr(module, "dropout"):
            module.dropout = dropout
    results = {}
    for how, options in {"kept": None, "selective": {"context_fn": keep_linear_outputs}, "full": {}}.items():
        if options is not None:
            tiny_model.gradient_checkpointing_enable({"use_reentrant": False, **options})
        torch.manual_seed(0)
        results[how] = step(tiny_model, batch, autocast)
    expected = results["kept"]
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.gradients.values())
    for how in ("selective", "full"):
        result = results[how]
        assert result.loss == expected.loss
        assert result.gradients.keys() == expected.gradients.keys()
        for name, gradient in expected.gradients.items():
            assert torch.equal(result.gradients[name], gradient), (how, name)
    assert results["selective"].products == expected.products < results["full"].products


def test_a_block_keeps_the_outputs_of_all_linear_layers_but_the_last(tiny_model, monkeypatch):
    block = tiny_model.vision_model.encoder.layers[0].train()
    tokens, width, inner = 7, block.embed_dim, block.mlp.fc1.out_features
    policy, kept = recomputation._policy, []

    def recorded(context, operator, *args, **kwargs):
        decision = policy(context, operator, *args, **kwargs)
        if decision == CheckpointPolicy.MUST_SAVE and not context.is_recompute:
            kept.append((args[-2].shape[0], args[-1].shape[1]))
        return decision

    monkeypatch.setattr(recomputation, "_policy", recorded)
    hidden = torch.randn(1, tokens, width, requires_grad=True)
    checkpoint(block, hidden, None, use_reentrant=False, context_fn=keep_linear_outputs).sum().backward()
    assert kept == [(tokens, width)] * 4 + [(tokens, inner)]
