"""Mismatched-condition negatives over processes, and where they cannot be: a contrast over micro-batches."""

from copy import deepcopy

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes
from training.test_distributed_regions import batch_of
from training.tiny_runs import new_trainer


pytestmark = pytest.mark.slow


# Images of each process, which of them have a short caption, and no boxes.
PARTS = [(2, [1], []), (3, [0, 2], [])]


def gradients(config, kind, numbers, gather, wrap=lambda model: model):
    torch.manual_seed(0)
    model = BetaCLIPModel(deepcopy(config)).double()
    model.config.alignment_loss, model.config.text_conditioned_loss_weight = kind, 2
    wrapped = wrap(model)
    batch = batch_of([(number, PARTS[number]) for number in numbers], seed=3)
    batch = {name: value for name, value in batch.items() if not name.startswith(("box", "region", "hard"))}
    if 1 in numbers:  # the first image of the second process loses its phrase: processes have unlike numbers of texts
        kept = torch.ones(len(batch["image_index"]), dtype=torch.bool)
        kept[1 + 5 * (0 in numbers)] = False
        batch |= {name: batch[name][kept] for name in ("input_ids", "image_index", "granularity")}
    with model.loss_context(gather=gather):
        outputs = wrapped(**batch, return_loss=True)
    outputs.loss.backward()
    losses = {name: part.detach() for name, part in outputs.losses.items()}
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


def in_process(rank, config):
    return {kind: gradients(config, kind, [rank], ProcessGather(), DistributedDataParallel) for kind in ("ce", "bce")}


def test_two_processes_have_the_gradient_of_one(tiny_config):
    found_by_rank = run_processes(in_process, tiny_config)
    for kind in ("ce", "bce"):
        losses, expected = gradients(tiny_config, kind, [0, 1], None)
        assert losses["text_conditioned_loss"] > 0.1
        alone, _ = gradients(tiny_config, kind, [0], None)
        assert (alone["text_conditioned_loss"] - losses["text_conditioned_loss"]).abs() > 1e-3
        for found in found_by_rank:
            losses_here, gradients_here = found[kind]
            assert losses_here.keys() == losses.keys()
            for name, value in losses.items():
                torch.testing.assert_close(losses_here[name], value, rtol=0, atol=1e-12)
            for name, gradient in expected.items():
                torch.testing.assert_close(gradients_here[name], gradient, rtol=0, atol=1e-10)
        assert sum(gradient.abs().max() > 1e-4 for gradient in expected.values()) > 0.8 * len(expected)


def test_a_contrast_over_micro_batches_refuses_them(tiny_config, tmp_path):
    tiny_config.text_conditioned_loss_weight = 0.5
    trainer = new_trainer(tiny_config, tmp_path, rows=8, contrastive_batch_size=8)
    with pytest.raises(ValueError, match=r"must be 0 where .* \(contrastive_batch_size\), but is 0.5"):
        trainer.train()
