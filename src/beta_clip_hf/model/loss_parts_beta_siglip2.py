# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the loss that SigLIP and FG-CLIP 2 add: from the embeddings of a flat batch to one number each."""

import torch
from torch import Tensor

from .loss_beta_siglip2 import hard_contrast_loss, intra_text_loss, sigmoid_loss
from .loss_inputs_beta_clip import LossInputs, Pairs, or_empty


def sigmoid_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `sigmoid_loss` of the images and their captions."""
    return _sigmoid(inputs, inputs.caption_pairs(), logit_scale)


def short_sigmoid_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `sigmoid_loss` of the short captions and their images."""
    return _sigmoid(inputs, inputs.short_caption_pairs(), logit_scale)


def _sigmoid(inputs: LossInputs, pairs: Pairs, logit_scale: Tensor) -> Tensor:
    assert inputs.logit_bias is not None
    return sigmoid_loss(
        pairs.image_JD, pairs.text_JD, logit_scale=logit_scale, logit_bias=inputs.logit_bias, gather=pairs.gather
    )


def intra_text_part(inputs: LossInputs, _logit_scale: Tensor) -> Tensor:
    """Computes `intra_text_loss` of the texts of regions. It has no scale."""
    embeds = inputs.embeds
    return intra_text_loss(
        or_empty(embeds.region_text_RD, embeds.image_BD),
        leave_out_similar=inputs.config.intra_text_leaves_out_similar,
        gather=inputs.gather_of("regions"),
    )


def hard_contrast_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `hard_contrast_loss` of the flagged boxes of all processes."""
    return hard_contrast_loss(*inputs.hard_rows(), logit_scale=logit_scale, gather=inputs.gather)


def rank_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `rank_loss` of the flagged boxes; the module of the model keeps the threshold."""
    if inputs.config.rank_loss_on_cosines:
        logit_scale = torch.ones_like(logit_scale)
    loss: Tensor = inputs.modules["rank_loss"](*inputs.hard_rows(), logit_scale=logit_scale, gather=inputs.gather)
    return loss


__all__ = ["hard_contrast_part", "intra_text_part", "rank_part", "short_sigmoid_part", "sigmoid_part"]
