"""Selective recomputation: the same gradients, less kept, and no matrix product done twice."""

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint
from torch.utils.flop_counter import FlopCounterMode

from beta_clip_hf.training import recomputation
from beta_clip_hf.training.recomputation import keep_linear_outputs
from training.tiny_runs import TensorCollator, TensorRows


def step(model, batch, autocast=False):
    """Loss and gradients of a step, and how many floating-point operations its products with weights took."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
    of_products = counter.get_flop_counts()["Global"]
    count = of_products[torch.ops.aten.addmm] + of_products[torch.ops.aten.mm]
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, count


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
    loss, expected, products = results["kept"]
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for how in ("selective", "full"):
        assert results[how][0] == loss
        assert results[how][1].keys() == expected.keys()
        assert all(torch.equal(results[how][1][name], gradient) for name, gradient in expected.items()), how
    assert results["selective"][2] == products < results["full"][2]


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
