"""A plain batch, and each use of a model on SigLIP 2 towers, under FSDP2 in two processes."""

import copy

import pytest
import torch
from packaging.version import Version
from torch import nn

from ddp_helpers import run_processes
from integration.test_fsdp2 import full, shard
from integration.uses import flat_batch, new_model
from model.siglip2_batches import flat_batch as siglip2_batch
from model.siglip2_batches import padded_texts
from model.siglip2_batches import tiny_model as tiny_siglip2


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(Version(torch.__version__) < Version("2.7"), reason="FSDP2 on the CPU needs torch 2.7 or newer"),
]


def clip_case(clip_config):
    """A model and four pairs of images and texts."""
    batch = flat_batch()
    images = torch.cat([batch["pixel_values"], batch["pixel_values"][:1].flip(-1)])
    return new_model(clip_config), {"pixel_values": images, "input_ids": batch["input_ids"][:4]}


def siglip2_case(clip_config):
    """A model and four pairs of images and texts."""
    generator = torch.Generator().manual_seed(2)
    return tiny_siglip2(), {
        "pixel_values": torch.randn(4, 12, 48, generator=generator),
        "pixel_attention_mask": torch.ones(4, 12, dtype=torch.int64),
        "spatial_shapes": torch.tensor([[3, 4], [4, 3], [2, 6], [6, 2]]),
        "input_ids": padded_texts([4, 5, 8, 3], 8),
    }


@pytest.mark.parametrize("make_case", [clip_case, siglip2_case])
def test_a_plain_batch_trains_as_under_ddp_and_in_one_process(make_case, tiny_clip_config):
    model, batch = make_case(tiny_clip_config)
    # In one process: the mean of the losses that the two processes have.
    halves = [part_of(batch, rank) for rank in range(2)]
    expected = train(copy.deepcopy(model), halves)
    results = run_processes(train_both, model, batch)
    for kind in ("fsdp", "ddp"):
        losses = torch.stack([result[f"{kind} losses"] for result in results]).mean(dim=0)
        torch.testing.assert_close(losses, expected["losses"], rtol=0, atol=1e-5)
        for result in results:
            assert_equal(result[f"{kind} gradient"], expected["gradient"])
            assert_equal(result[f"{kind} weights"], expected["weights"])
    assert (expected["losses"].diff() != 0).all()
    assert any(gradient.abs().max() > 1e-2 for gradient in expected["gradient"].values())
    assert expected["weights"]["logit_scale"] != model.logit_scale


def test_every_use_of_a_model_on_siglip2_gathers_the_weights():
    model = tiny_siglip2()
    with torch.no_grad():
        expected = siglip2_uses(model)
    for results in run_processes(use_sharded_siglip2, model):
        assert_equal(results, expected)


def siglip2_uses(model):
    """What each use of a model returns."""
    batch = siglip2_batch()
    outputs = model(**batch)
    image_names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    images = {name: batch[name] for name in image_names}
    texts = batch["input_ids"]
    patches = model.get_patch_features(**images)
    short = model.get_text_features(texts[:, :8]).pooler_output
    return {
        "loss": outputs.loss,
        "text_embeds": outputs.text_embeds,
        "images": model.get_image_features(**images).pooler_output,
        "short": short,
        "long": model.get_text_features(texts, path="long").pooler_output,
        "box": model.get_text_features(texts[:, :8], path="box").pooler_output,
        "patches": patches.features,
        "regions": model.get_region_features(boxes=torch.tensor([[0.1, 0.1, 0.9, 0.8]] * 3), **images),
        "conditioned": model.get_text_conditioned_image_features(**images, input_ids=texts[:3], path="long"),
        "pairs": model.score_pairs(patches, short),
    }


def use_sharded_siglip2(rank, model):
    shard(model)
    with torch.no_grad():
        return {name: full(tensor) for name, tensor in siglip2_uses(model).items()}


def train_both(rank, model, batch):
    wrappers = {
        "ddp": nn.parallel.DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True),
        "fsdp": shard(copy.deepcopy(model)),
    }
    results = {}
    for name, wrapped in wrappers.items():
        found = train(wrapped, [part_of(batch, rank)])
        results |= {f"{name} {part}": value for part, value in found.items()}
    return results


def train(wrapped, batches):
    """Three steps on the mean loss of some batches."""
    model = getattr(wrapped, "module", wrapped).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    gradient = {}
    for step in range(3):
        loss = torch.stack([wrapped(**batch, return_loss=True).loss for batch in batches]).mean()
        loss.backward()
        if step == 0:
            present = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            gradient = {name: full(value).clone() for name, value in present.items() if full(value).any()}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weights = {name: full(weight).detach() for name, weight in model.state_dict().items()}
    return {"losses": torch.tensor(losses), "gradient": gradient, "weights": weights}


def part_of(batch, rank):
    return {name: tensor[2 * rank : 2 * rank + 2] for name, tensor in batch.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].view_as(tensor), tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: n + m)
