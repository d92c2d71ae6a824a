# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the CPU can work out about a flat batch before it is computed, so that a training step waits for no GPU."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configuration_beta_clip import Granularity
from .ragged_beta_clip import ImageSlots, Planned, exportable, slots_by_image


@exportable
@dataclass(eq=False)
class BatchPlan(Planned):
    r"""
    Holds where the rows of a flat batch belong. [`plan_batch`] makes it for one batch, and the model trusts it.

    Internal: the collator adds it to its batch as `plan`, and `BetaCLIPModel.forward` takes it from there. It is no
    argument for users, because a plan of another batch would not be noticed.

    Args:
        packing (`TextPacking` or `TextRows`):
            Of all texts: those of the images, then those of regions, the hard ones, and the negatives of the first.
        text_slots (`ImageSlots`, *optional*): Of the texts of the images; missing in a graph that has no plan.
        region_slots (`ImageSlots`, *optional*): Of the regions, if the batch has tensors of them.
        negative_slots (`ImageSlots`, *optional*): Of the texts of the images and, after them, the negatives of these.
        caption_B (`Tensor` of shape `(B,)`, int64, *optional*): Which text is the caption of each image.
        short_J (`Tensor` of shape `(J,)`, int64, *optional*): Which texts are short captions.
        aligned_A (`Tensor` of shape `(A,)`, int64, *optional*): Which texts are captions, sentences or phrases.
        grid_sizes (*optional*): Rows and columns of each image, in a model whose images differ in these. They stay on
            the CPU.
    """

    packing: Any
    text_slots: ImageSlots | None = None
    region_slots: ImageSlots | None = None
    negative_slots: ImageSlots | None = None
    caption_B: Tensor | None = None
    short_J: Tensor | None = None
    aligned_A: Tensor | None = None
    grid_sizes: list[list[int]] | None = None


def plan_batch(
    packing: Any,
    image_index_T: Tensor,
    num_images: int,
    *,
    granularity_T: Tensor | None = None,
    region_image_index_R: Tensor | None = None,
    negative_text_index_n: Tensor | None = None,
    grid_sizes: list[list[int]] | None = None,
) -> BatchPlan:
    r"""
    Plans a batch on the CPU, where all arguments are.

    Args:
        packing (`TextPacking` or `TextRows`): From [`plan_texts`] or [`plan_rows`].
        image_index_T (`Tensor` of shape `(T,)`, int64): The image of each text.
        num_images (`int`): B.
        granularity_T (`Tensor` of shape `(T,)`, int64, *optional*): The kind of each text, if there is to be a loss.
        region_image_index_R (`Tensor` of shape `(R,)`, int64, *optional*): The image of each region.
        negative_text_index_n (`Tensor` of shape `(n,)`, int64, *optional*): The text of each negative.
        grid_sizes (*optional*): Rows and columns of each image.

    Raises:
        ValueError: With `granularity`, for an image that has no caption or several, or several short captions.
    """
    text_slots = slots_by_image(image_index_T, num_images)
    region_slots = None
    if region_image_index_R is not None:
        region_slots = slots_by_image(region_image_index_R, num_images)
    negative_slots = None
    if negative_text_index_n is not None:
        joined_index = torch.cat([image_index_T, image_index_T[negative_text_index_n]])
        negative_slots = slots_by_image(joined_index, num_images)
    if granularity_T is None:
        return BatchPlan(packing, text_slots, region_slots, negative_slots, grid_sizes=grid_sizes)

    caption_B = _texts_of_kind(granularity_T, Granularity.CAPTION)
    num_captions = _counts_by_image(image_index_T[caption_B], num_images)
    if any(count != 1 for count in num_captions):
        raise ValueError(f"each image must have one caption for a loss, but they have {num_captions}")
    short_J = _texts_of_kind(granularity_T, Granularity.SHORT_CAPTION)
    num_short_captions = _counts_by_image(image_index_T[short_J], num_images)
    if any(count > 1 for count in num_short_captions):
        raise ValueError(
            f"each image must have at most one short caption for a loss, but they have {num_short_captions}"
        )
    return BatchPlan(
        packing,
        text_slots,
        region_slots,
        negative_slots,
        # Texts may come in any order of their images.
        caption_B=caption_B[image_index_T[caption_B].argsort()],
        short_J=short_J,
        aligned_A=(granularity_T <= Granularity.PHRASE).nonzero()[:, 0],
        grid_sizes=grid_sizes,
    )


def _texts_of_kind(granularity_T: Tensor, kind: Granularity) -> Tensor:
    """Returns the numbers of the texts of one kind."""
    return (granularity_T == kind).nonzero()[:, 0]


def _counts_by_image(image_index_T: Tensor, num_images: int) -> list[int]:
    """Returns how many of the texts each image has."""
    return torch.bincount(image_index_T, minlength=num_images).tolist()


__all__ = ["BatchPlan", "plan_batch"]
