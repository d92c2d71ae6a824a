# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the loss that SigLIP and FG-CLIP 2 add: from the embeddings of a flat batch to one number each."""

import torch
from torch import Tensor

from .loss_beta_siglip2 import hard_contrast_loss, intra_text_loss, sigmoid_loss
from .loss_inputs_beta_clip import LossInputs, or_empty


def sigmoid_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `sigmoid_loss` of the images and their captions."""
    embeds = inputs.embeds
    assert inputs.logit_bias is not None
    return sigmoid_loss(
        embeds.image_BD,
        embeds.text_TD[embeds.caption_B],
        logit_scale=logit_scale,
        logit_bias=inputs.logit_bias,
        gather=inputs.gather_of("images"),
    )


def short_sigmoid_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `sigmoid_loss` of the short captions and their images."""
    embeds = inputs.embeds
    assert inputs.logit_bias is not None
    return sigmoid_loss(
        embeds.image_BD[embeds.image_index_T[embeds.short_J]],
        embeds.text_TD[embeds.short_J],
        logit_scale=logit_scale,
        logit_bias=inputs.logit_bias,
        gather=inputs.gather_of("short_captions"),
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
    return hard_contrast_loss(*_hard_rows(inputs), logit_scale=logit_scale, gather=inputs.gather)


def rank_part(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `rank_loss` of the flagged boxes; the module of the model keeps the threshold."""
    if inputs.config.rank_loss_on_cosines:
        logit_scale = torch.ones_like(logit_scale)
    loss: Tensor = inputs.modules["rank_loss"](*_hard_rows(inputs), logit_scale=logit_scale, gather=inputs.gather)
    return loss


def _hard_rows(inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the regions, the hard texts, and the region of each of these."""
    embeds = inputs.embeds
    return (
        or_empty(embeds.region_RD, embeds.image_BD),
        or_empty(embeds.hard_text_ND, embeds.image_BD),
        or_empty(embeds.hard_region_index_N, embeds.image_index_T),
    )


__all__ = ["hard_contrast_part", "intra_text_part", "rank_part", "short_sigmoid_part", "sigmoid_part"]
