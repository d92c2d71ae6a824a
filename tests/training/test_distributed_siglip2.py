"""A model on SigLIP 2 towers in two processes against one: all losses, the threshold and every gradient."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes
from model.siglip2_batches import IMAGE_INDEX, flat_batch, tiny_model


pytestmark = pytest.mark.slow

# The images of each process: the second has more of them, and other numbers of texts, boxes and hard texts.
IMAGES = ([0], [1, 2])
PARTS = {
    "beta_cal_loss",
    "region_loss",
    "hard_negative_loss",
    "sigmoid_loss",
    "short_sigmoid_loss",
    "intra_text_loss",
    "hard_contrast_loss",
    "rank_loss",
}


def part_of(batch, images):
    """Returns what a batch holds of some images that follow each other."""
    first = images[0]
    texts = torch.isin(IMAGE_INDEX, torch.tensor(images))
    boxes = torch.isin(batch["region_image_index"], torch.tensor(images))
    hard = boxes[batch["hard_region_index"]]
    first_box = int(boxes.nonzero()[0])
    part = {name: batch[name][images] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")}
    part |= {name: batch[name][texts] for name in ("input_ids", "granularity")}
    part |= {name: batch[name][boxes] for name in ("boxes", "region_input_ids")}
    return {
        **part,
        "image_index": batch["image_index"][texts] - first,
        "region_image_index": batch["region_image_index"][boxes] - first,
        "hard_input_ids": batch["hard_input_ids"][hard],
        "hard_region_index": batch["hard_region_index"][hard] - first_box,
        "return_loss": True,
    }


def step(batch, gather=None, wrap=lambda model: model):
    """Returns the losses, the next threshold and the gradients of one step."""
    model = tiny_model(rank_loss_weight=0.5).double().train()
    model.rank_loss.threshold.fill_(1.0)
    wrapped = wrap(model)
    with model.loss_context(gather=gather):
        outputs = wrapped(**batch)
    outputs.loss.backward()
    losses = {name: part.item() for name, part in outputs.losses.items()}
    return losses, model.rank_loss.threshold.item(), {name: weight.grad for name, weight in model.named_parameters()}


def in_process(rank, dense_limit):
    paired_rows_beta_clip.DENSE_LIMIT = dense_limit
    part = part_of(flat_batch(torch.float64), IMAGES[rank])
    return step(part, ProcessGather(), lambda model: DistributedDataParallel(model, find_unused_parameters=True))


@pytest.mark.parametrize("dense_limit", [torch.inf, 0], ids=["whole", "tiled"])
def test_two_processes_are_one(dense_limit):
    losses, threshold, gradients = step(flat_batch(torch.float64))
    assert losses.keys() == PARTS and threshold != 1.0
    for losses_here, threshold_here, gradients_here in run_processes(in_process, dense_limit):
        assert losses_here == pytest.approx(losses, rel=1e-10)
        assert threshold_here == pytest.approx(threshold, rel=1e-10)
        for name, gradient in gradients.items():
            # On a CPU, transformers resizes the table of positions in float32.
            tolerance = 1e-8 if name.endswith("position_embedding.weight") else 1e-10
            torch.testing.assert_close(gradients_here[name], gradient, rtol=0, atol=tolerance, msg=name)
    for name in ("logit_scale", "logit_bias", "region_logit_scale", "patch_head.mlp.fc1.weight", "box_text_head.bias"):
        assert gradients[name].abs().max() > 1e-5, name
