"""From the embeddings of a flat batch to the named parts of its loss, in one process or over several.

Letters: B images, T texts of the batch (flat), R regions, N hard texts, D projection width.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .loss_beta_clip import DENSE_LIMIT, beta_cal_loss, clip_loss, hard_negative_loss, region_loss
from .tiled_beta_clip import tiled_contrast, tiled_sigmoid


_NO_ROWS = [0] * 5  # of the sizes that processes tell each other: below rank 0 there are none


class Granularity(IntEnum):
    """What kind of text a row of a flat batch is; β-CAL runs over the first three."""

    CAPTION = 0
    SENTENCE = 1
    PHRASE = 2
    SHORT_CAPTION = 3


@dataclass
class FlatEmbeds:
    """The L2-normalised embeddings of one process's batch, and which of them belong together."""

    image_BD: Tensor
    text_TD: Tensor
    image_index_T: Tensor
    granularity_T: Tensor | None = None
    contextualized_TD: Tensor | None = None
    region_RD: Tensor | None = None
    region_text_RD: Tensor | None = None
    region_text_id_R: Tensor | None = None
    hard_text_ND: Tensor | None = None
    hard_region_index_N: Tensor | None = None


class OneProcess:
    """A gather over the batch of this process alone: its rows are all rows."""

    rank = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor

    def row_counts(self, *rows: int) -> list[list[int]]:
        return [list(rows)]


def batch_objective(
    config: Any, embeds: FlatEmbeds, logit_scales: dict[str, Tensor], gather: Any = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss Σ weight · part and its parts, see [`batch_losses`]."""
    losses = batch_losses(config, logit_scales, embeds, gather)
    weighted = [getattr(config, f"{name}_weight") * part for name, part in losses.items()]
    return sum(weighted[1:], start=weighted[0]), losses


def batch_losses(config: Any, logit_scales: dict[str, Tensor], embeds: FlatEmbeds, gather: Any) -> dict[str, Tensor]:
    r"""
    The parts of the loss that the configuration weighs, that the model has a scale for and that the batch has rows for
    (in any process: all processes compute the same parts, in the same order).

    Args:
        config (`BetaCLIPConfig`): read for the weights (`X_weight` of part `X`), `beta` and `alignment_loss`.
        logit_scales (`dict[str, Tensor]`): the logarithm of s for each part that the model can compute, by its name.
        embeds: the batch.
        gather: as in `BetaCLIPModel.forward`; `None` for a batch of one process.

    Returns:
        The parts by name, unweighted scalars; every process holds the value of the whole batch.

    Raises:
        ValueError: without `granularity`, for an image with no caption or several of a kind, or if no part has weight.

    Source: arXiv 2512.12678 (`clip_loss`, `beta_cal_loss`), arXiv 2505.05071 (the other parts).
    """
    gather = gather or OneProcess()
    caption_T, short_T, num_short = _checked_captions(embeds)
    empty_0D = embeds.image_BD[:0]
    region_RD, hard_ND = _given(embeds.region_RD, empty_0D), _given(embeds.hard_text_ND, empty_0D)
    region_text_RD = _given(embeds.region_text_RD, empty_0D)
    flagged = 0 if embeds.hard_region_index_N is None else len(embeds.hard_region_index_N.unique_consecutive())
    num_aligned = 0 if embeds.contextualized_TD is None else len(embeds.text_TD) - num_short
    counts = gather.row_counts(len(embeds.image_BD), num_aligned, num_short, len(region_text_RD), flagged)
    first_image, first_text, *_ = (sum(column) for column in zip(*counts[: gather.rank], _NO_ROWS, strict=True))
    all_aligned, all_short, all_regions, all_flagged = (sum(c) for c in list(zip(*counts, strict=True))[1:])

    def pairs(of_kind_T: Tensor) -> dict[str, Any]:
        return {
            "image_embeds_BD": embeds.image_BD[embeds.image_index_T[of_kind_T]],
            "text_embeds_BD": embeds.text_TD[of_kind_T],
            "gather": gather,
        }

    has_rows = {
        "short_clip_loss": all_short,
        "beta_cal_loss": embeds.contextualized_TD is not None,
        "region_loss": all_regions,
        "hard_negative_loss": all_flagged,
    }
    scale = {
        name: multiplier(log_scale)
        for name, log_scale in logit_scales.items()
        if getattr(config, f"{name}_weight") and has_rows.get(name, True)
    }
    losses = {}
    if "clip_loss" in scale:
        losses["clip_loss"] = clip_loss(**pairs(caption_T), logit_scale=scale["clip_loss"])
    if "short_clip_loss" in scale:
        losses["short_clip_loss"] = clip_loss(**pairs(short_T), logit_scale=scale["short_clip_loss"])
    if "beta_cal_loss" in scale:
        place = None if len(counts) == 1 or all_aligned**2 <= DENSE_LIMIT else (first_text, all_aligned)
        losses["beta_cal_loss"] = _beta_cal(config, scale["beta_cal_loss"], embeds, first_image, gather, place)
    if "region_loss" in scale:
        text_id_R = _given(embeds.region_text_id_R, embeds.image_index_T[:0])
        losses["region_loss"] = region_loss(
            region_RD[: len(region_text_RD)],  # all of them, or none where their texts are not given
            region_text_RD,
            logit_scale=scale["region_loss"],
            text_id_R=text_id_R if config.mask_identical_region_texts else None,
            gather=gather,
        )
    if "hard_negative_loss" in scale:
        index_N = _given(embeds.hard_region_index_N, embeds.image_index_T[:0])
        own_mean = hard_negative_loss(region_RD, hard_ND, index_N, logit_scale=scale["hard_negative_loss"])
        # A mean over the flagged regions of all processes: one number each is enough, no embedding has to travel.
        losses["hard_negative_loss"] = gather((own_mean * flagged)[None]).sum() / all_flagged
    if not losses:
        raise ValueError("a loss needs a part of positive weight, but the configuration has none")
    return losses


def _beta_cal(
    config: Any, scale: Tensor, embeds: FlatEmbeds, first_image: int, gather: Any, place: tuple[int, int] | None
) -> Tensor:
    """
    `beta_cal_loss` of the captions, sentences and phrases.

    With a `place`, the number of texts of lower ranks and of all processes, each process computes the rows of its own
    contextualised embeddings alone: the work of a large batch is divided, and only text embeddings travel (for "ce"
    also one number per text and process).
    """
    assert embeds.granularity_T is not None and embeds.contextualized_TD is not None
    aligned_T = embeds.granularity_T <= Granularity.PHRASE
    own_TD, text_TD = embeds.contextualized_TD[aligned_T], embeds.text_TD[aligned_T]
    image_index_T = embeds.image_index_T[aligned_T] + first_image
    settings = {"logit_scale": scale, "beta": config.beta}
    if place is None:
        return beta_cal_loss(own_TD, text_TD, image_index_T, kind=config.alignment_loss, gather=gather, **settings)

    first_text, num_texts = place
    text_MD, image_index_M = gather(text_TD), gather(image_index_T)
    settings["first_row"] = first_text
    if config.alignment_loss == "ce":
        share = tiled_contrast(own_TD, text_MD, image_index_M=image_index_M, gather=gather, **settings)
    else:
        share = tiled_sigmoid(own_TD, text_MD, image_index_M, **settings) / num_texts
    return gather((share / num_texts)[None]).sum()


def _checked_captions(embeds: FlatEmbeds) -> tuple[Tensor, Tensor, int]:
    """Which texts are captions, which are short captions, and how many of the latter; one wait for the device."""
    index_T, granularity_T, num_images = embeds.image_index_T, embeds.granularity_T, len(embeds.image_BD)
    if granularity_T is None or granularity_T.shape != index_T.shape:
        shape = None if granularity_T is None else tuple(granularity_T.shape)
        raise ValueError(f"granularity must have shape {tuple(index_T.shape)} for a loss, but is {shape}")
    caption_T, short_T = granularity_T == Granularity.CAPTION, granularity_T == Granularity.SHORT_CAPTION
    per_image = [torch.bincount(index_T[of_kind_T], minlength=num_images) for of_kind_T in (caption_T, short_T)]
    captions, short_captions = torch.stack(per_image).tolist()
    if any(count != 1 for count in captions):
        raise ValueError(f"each image must have one caption for a loss, but they have {captions}")
    if any(count > 1 for count in short_captions):
        raise ValueError(f"each image must have at most one short caption for a loss, but they have {short_captions}")
    return caption_T, short_T, sum(short_captions)


def _given(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if tensor is None else tensor


def multiplier(logit_scale: Tensor) -> Tensor:
    """exp of a log scale, in at least float32: 100 has no neighbour closer than 0.5 in bfloat16."""
    return logit_scale.to(torch.promote_types(logit_scale.dtype, torch.float32)).exp()


__all__ = ["FlatEmbeds", "Granularity", "batch_losses", "batch_objective", "multiplier"]
