"""FSDP2 in two processes: loss, gradient, steps and the gathered weights are those of DDP."""

import copy

import pytest
import torch
from packaging.version import Version
from torch import distributed, nn

from beta_clip_hf.training.distributed import ProcessGather, prepare_for_fsdp2
from ddp_helpers import run_processes
from integration.uses import all_uses, flat_batch, new_model


# A GPU has streams, which FSDP2 of torch 2.6 asks of every device.
pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"), reason="FSDP2 on the CPU needs torch 2.7 or newer"
)


def test_steps_and_weights_are_those_of_ddp(tiny_clip_config, tmp_path):
    model = new_model(tiny_clip_config)
    results = run_processes(train_both, model, str(tmp_path))
    for result in results:
        assert result["is_sharded"]
        torch.testing.assert_close(result["fsdp losses"], result["ddp losses"], rtol=0, atol=1e-5)
        assert (result["ddp losses"].diff() != 0).all()
        assert result["fsdp gradient"].keys() == result["ddp gradient"].keys()
        for name, gradient in result["ddp gradient"].items():
            torch.testing.assert_close(result["fsdp gradient"][name].view_as(gradient), gradient, rtol=0, atol=1e-5)
        assert result["fsdp weights"].keys() == result["ddp weights"].keys()
        for name, weight in result["ddp weights"].items():
            torch.testing.assert_close(result["fsdp weights"][name], weight, rtol=0, atol=1e-5)
        assert not torch.equal(result["ddp weights"]["logit_scale"], model.logit_scale)
        assert not torch.equal(result["ddp weights"]["pooler.logit_scale"], model.pooler.logit_scale)
    saved = type(model).from_pretrained(tmp_path)
    assert saved.logit_scale.shape == saved.pooler.logit_scale.shape == ()
    for name, weight in results[0]["ddp weights"].items():
        torch.testing.assert_close(saved.state_dict()[name], weight, rtol=0, atol=1e-5)


def test_every_use_gathers_the_weights(tiny_clip_config):
    model = new_model(tiny_clip_config)
    with torch.no_grad():
        expected = all_uses(model, flat_batch())
    for results in run_processes(use_sharded, model):
        for name, tensor in expected.items():
            torch.testing.assert_close(results[name], tensor, rtol=0, atol=1e-5)


def shard(model):
    from torch.distributed.fsdp import fully_shard

    prepare_for_fsdp2(model)
    # As accelerate does: modules that stay whole, from the inside out, and then the model.
    for module in reversed(list(model.modules())):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module)
    fully_shard(model)
    return model


def use_sharded(rank, model):
    shard(model)
    with torch.no_grad():
        return {name: full(tensor) for name, tensor in all_uses(model, flat_batch()).items()}


def train_both(rank, model, folder):
    replicated = nn.parallel.DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True)
    sharded = shard(model)
    # A state dict has the scales without an axis, and is loaded all the same.
    sharded.load_state_dict(sharded.state_dict())
    result = {"is_sharded": isinstance(sharded.pooler.q_proj.weight, torch.distributed.tensor.DTensor)}
    for name, wrapped in {"fsdp": sharded, "ddp": replicated}.items():
        result |= {f"{name} {part}": value for part, value in train(wrapped, rank).items()}
    # It empties the dict.
    sharded.save_pretrained(folder, state_dict=dict(result["fsdp weights"]), is_main_process=rank == 0)
    distributed.barrier()
    return result


def train(wrapped, rank):
    """Three steps on half a batch for each process."""
    model = getattr(wrapped, "module", wrapped)
    model.config.text_conditioned_loss_weight = 1.0
    batch = flat_batch()
    is_mine = batch["image_index"] < 2 if rank == 0 else batch["image_index"] == 2
    images = slice(0, 2) if rank == 0 else slice(2, 3)
    half = {name: batch[name][is_mine] for name in ("input_ids", "image_index", "granularity")}
    half["image_index"] = half["image_index"] - images.start
    half["pixel_values"] = batch["pixel_values"][images]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    wrapped.train()
    losses = []
    gradient = {}
    for step in range(3):
        with model.loss_context(gather=ProcessGather()):
            loss = wrapped(**half, return_loss=True).loss
        loss.backward()
        if step == 0:
            present = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            gradient = {name: full(value).clone() for name, value in present.items() if full(value).any()}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weights = {name: full(weight).detach() for name, weight in model.state_dict().items()}
    return {"losses": torch.tensor(losses), "gradient": gradient, "weights": weights}


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
