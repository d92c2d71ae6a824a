"""Regions, hard negatives and short captions in two processes against one, ragged and with a process that has none."""

from copy import deepcopy

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes


pytestmark = pytest.mark.slow


START, END = 512, 513
# Of each process: images, which of them have a short caption and negatives of their texts, and for each box its image
# and number of hard negatives.
CASES = {
    "ragged": [(2, [0, 1], [(0, 3), (0, 0), (1, 1)]), (3, [2], [(1, 0), (2, 2)])],
    "no region in one": [(2, [1], []), (2, [0, 1], [(0, 0), (1, 4), (1, 1)])],
    "no hard negative in one": [(1, [0], [(0, 0)]), (2, [], [(0, 2), (1, 0)])],
    "nothing but captions": [(2, [], []), (1, [], [])],
}
PARTS = {
    "ragged": {
        "clip_loss",
        "short_clip_loss",
        "beta_cal_loss",
        "text_clip_loss",
        "region_loss",
        "hard_negative_loss",
        "text_negative_loss",
        "conditioned_negative_loss",
    },
    "nothing but captions": {"clip_loss", "beta_cal_loss", "text_clip_loss"},
}
PARTS |= {name: PARTS["ragged"] for name in CASES if name not in PARTS}
# Every process computes each loss whole, or, as if the rows were many, its own rows of each.
LIMITS = {"whole": torch.inf, "shared": 0}


def batch_of(parts, seed):
    """The batch of some processes' parts, each drawn by itself, so that a part is the same alone and among others."""
    batches = []
    for number, (images, shorts, boxes) in parts:
        generator = torch.Generator().manual_seed(100 * seed + number)

        def text(generator=generator):
            words = torch.randint(0, 30, (4,), generator=generator).tolist()  # few words, so that some texts are equal
            return [START, *words[: 1 + words[0] % 2], END, END, END][:5]

        kinds, hard, negative = [], [], []
        for image in range(images):
            kinds += [(image, 0), (image, 2)]
            if image in shorts:
                # Of the caption, and of the phrase that was added last.
                negative += [len(kinds) - 2] * (1 + image) + [len(kinds) - 1]
                kinds.append((image, 3))
        for index, (_, negatives) in enumerate(boxes):
            if negatives:  # the true text stands before them
                hard += [index] * (1 + negatives)
        batches.append(
            {
                "pixel_values": torch.randn(images, 3, 32, 32, generator=generator, dtype=torch.float64),
                "input_ids": torch.tensor([text() for _ in kinds]),
                "image_index": torch.tensor([image for image, _ in kinds]),
                "granularity": torch.tensor([kind for _, kind in kinds]),
                "boxes": torch.rand(len(boxes), 4, generator=generator, dtype=torch.float64).sort(dim=1).values,
                "region_image_index": torch.tensor([image for image, _ in boxes], dtype=torch.int64),
                "region_input_ids": torch.tensor([text() for _ in boxes], dtype=torch.int64).reshape(-1, 5),
                "hard_input_ids": torch.tensor([text() for _ in hard], dtype=torch.int64).reshape(-1, 5),
                "hard_region_index": torch.tensor(hard, dtype=torch.int64),
                "negative_input_ids": torch.tensor([text() for _ in negative], dtype=torch.int64).reshape(-1, 5),
                "negative_text_index": torch.tensor(negative, dtype=torch.int64),
            }
        )
    images = [len(batch["pixel_values"]) for batch in batches]
    regions = [len(batch["boxes"]) for batch in batches]
    texts = [len(batch["input_ids"]) for batch in batches]
    offsets = {
        "image_index": images,
        "region_image_index": images,
        "hard_region_index": regions,
        "negative_text_index": texts,
    }
    for name, counts in offsets.items():
        for place, batch in enumerate(batches):
            batch[name] = batch[name] + sum(counts[:place])
    joined = {}
    for name in batches[0]:
        joined[name] = torch.cat([batch[name] for batch in batches])
    return joined


def gradients(config, case, numbers, gather, wrap=lambda model: model, kind="ce"):
    torch.manual_seed(0)
    model = BetaCLIPModel(deepcopy(config)).double()
    model.config.alignment_loss = kind
    model.config.text_negative_loss_weight = 0.5
    model.config.conditioned_negative_loss_weight = 0.5
    model.config.text_clip_loss_weight = 0.5
    model.config.mask_identical_texts = True
    parts = [(number, CASES[case][number]) for number in numbers]
    wrapped = wrap(model)
    with model.loss_context(gather=gather):
        outputs = wrapped(**batch_of(parts, seed=7), return_loss=True)
    outputs.loss.backward()
    losses = {name: part.detach() for name, part in outputs.losses.items()}
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


def in_process(rank, config):
    def wrap(model):
        return DistributedDataParallel(model, find_unused_parameters=True)

    found = {}
    for way, paired_rows_beta_clip.DENSE_LIMIT in LIMITS.items():
        for case in CASES:
            for kind in ("ce", "bce"):
                found[way, case, kind] = gradients(config, case, [rank], ProcessGather(), wrap, kind)
    return found


@pytest.fixture(scope="module")
def found_by_rank(both_systems_config):
    return run_processes(in_process, both_systems_config)


@pytest.mark.parametrize("kind", ["ce", "bce"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_of_two_processes_are_those_of_one(found_by_rank, both_systems_config, case, kind):
    losses, expected = gradients(both_systems_config, case, [0, 1], None, kind=kind)
    assert losses.keys() == PARTS[case]
    for way in LIMITS:
        for found in found_by_rank:
            losses_here, gradients_here = found[way, case, kind]
            assert losses_here.keys() == losses.keys()
            for name, value in losses.items():
                assert "negative_loss" not in name or value > 0.1
                torch.testing.assert_close(losses_here[name], value, rtol=0, atol=1e-12)
            for name, gradient in expected.items():
                here = gradients_here[name]
                gradient = torch.zeros_like(here) if gradient is None and here is not None else gradient
                torch.testing.assert_close(here, gradient, rtol=0, atol=1e-10)
    assert expected["pooler.logit_scale"].abs() > 1e-4
    if case == "ragged":
        for name in ("region_logit_scale", "hard_negative_logit_scale", "long_text_projection.weight"):
            assert expected[name].abs().max() > 1e-4
