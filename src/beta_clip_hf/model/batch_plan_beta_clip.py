"""What the CPU can say of a flat batch before it is computed, so that a training step waits for no GPU.

Letters: B images, T texts of the batch (flat), S short captions, A texts that β-CAL aligns, R regions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .configuration_beta_clip import Granularity
from .packing_beta_clip import TextPacking
from .ragged_beta_clip import ImageSlots, Planned, slots_by_image


@dataclass(frozen=True, eq=False)
class BatchPlan(Planned):
    r"""
    Where the rows of a flat batch belong. Made by [`plan_batch`], for these very texts and regions; it is trusted.

    Args:
        packing (`TextPacking`): of all texts: those of the images, then those of regions, then the hard ones.
        text_slots (`ImageSlots`): of the texts of the images.
        region_slots (`ImageSlots`, *optional*): of the regions, where there are any tensors of them.
        caption_B (`Tensor` of shape `(B,)`, int64, *optional*): which text is the caption of each image.
        short_S (`Tensor` of shape `(S,)`, int64, *optional*): which texts are short captions.
        aligned_A (`Tensor` of shape `(A,)`, int64, *optional*): which texts are captions, sentences or phrases.
    """

    packing: TextPacking
    text_slots: ImageSlots
    region_slots: ImageSlots | None = None
    caption_B: Tensor | None = None
    short_S: Tensor | None = None
    aligned_A: Tensor | None = None


def plan_batch(
    packing: TextPacking,
    image_index_T: Tensor,
    num_images: int,
    *,
    granularity_T: Tensor | None = None,
    region_image_index_R: Tensor | None = None,
) -> BatchPlan:
    r"""
    The plan of a batch; everything it is given is on the CPU.

    Args:
        packing (`TextPacking`): from [`plan_texts`].
        image_index_T (`Tensor` of shape `(T,)`, int64): the image of each text.
        num_images (`int`): B.
        granularity_T (`Tensor` of shape `(T,)`, int64, *optional*): kind of each text, if there is to be a loss.
        region_image_index_R (`Tensor` of shape `(R,)`, int64, *optional*): the image of each region.

    Raises:
        ValueError: with `granularity`, for an image that has no caption or several, or several short captions.
    """
    region_slots = None if region_image_index_R is None else slots_by_image(region_image_index_R, num_images)
    plan = (packing, slots_by_image(image_index_T, num_images), region_slots)
    if granularity_T is None:
        return BatchPlan(*plan)
    caption_B, short_S = (
        (granularity_T == kind).nonzero()[:, 0] for kind in (Granularity.CAPTION, Granularity.SHORT_CAPTION)
    )
    captions, short_captions = (
        torch.bincount(image_index_T[texts], minlength=num_images).tolist() for texts in (caption_B, short_S)
    )
    if any(count != 1 for count in captions):
        raise ValueError(f"each image must have one caption for a loss, but they have {captions}")
    if any(count > 1 for count in short_captions):
        raise ValueError(f"each image must have at most one short caption for a loss, but they have {short_captions}")
    aligned_A = (granularity_T <= Granularity.PHRASE).nonzero()[:, 0]
    return BatchPlan(*plan, caption_B[image_index_T[caption_B].argsort()], short_S, aligned_A)


__all__ = ["BatchPlan", "plan_batch"]
