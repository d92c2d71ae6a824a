"""From the embeddings of a flat batch to the named parts of its loss, in one process or over several.

Letters: B images, T texts of the batch (flat), S short captions, A texts that β-CAL aligns, R regions, N hard texts,
D projection width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .loss_beta_clip import beta_cal_loss, clip_loss, hard_negative_loss, region_loss, text_conditioned_loss


@dataclass
class FlatEmbeds:
    """
    The L2-normalised embeddings of one process's batch, and which of them belong together (see `BatchPlan`).
    `score_pairs` gives the text-conditioned scores `(B, T)` of the images with any texts `(T, D)`, where a loss asks.
    """

    image_BD: Tensor
    text_TD: Tensor
    image_index_T: Tensor
    caption_B: Tensor | None = None
    short_S: Tensor | None = None
    aligned_A: Tensor | None = None
    contextualized_TD: Tensor | None = None
    score_pairs: Callable[[Tensor], Tensor] | None = None
    region_RD: Tensor | None = None
    region_text_RD: Tensor | None = None
    region_text_id_R: Tensor | None = None
    hard_text_ND: Tensor | None = None
    hard_region_index_N: Tensor | None = None


class OneProcess:
    """Takes the place of a gather where there is one process: the losses are given none."""

    rank = 0

    def row_counts(self, *rows: int) -> list[list[int]]:
        return [list(rows)]

    def sized(self, counts: Sequence[int]) -> None:
        return None

    def sum(self, values: Tensor) -> Tensor:
        return values


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
        embeds: the batch, with `caption`, `short` and `aligned`.
        gather: as in `BetaCLIPModel.forward`; `None` for a batch of one process.

    Returns:
        The parts by name, unweighted scalars; every process holds the value of the whole batch.

    Raises:
        ValueError: if no part has weight.

    Source: arXiv 2512.12678 (`clip_loss`, `beta_cal_loss`), arXiv 2505.05071 (the other parts).
    """
    gather = gather or OneProcess()
    assert embeds.caption_B is not None and embeds.short_S is not None and embeds.aligned_A is not None
    empty_0D = embeds.image_BD[:0]
    region_RD, hard_ND = _given(embeds.region_RD, empty_0D), _given(embeds.hard_text_ND, empty_0D)
    region_text_RD = _given(embeds.region_text_RD, empty_0D)
    num_aligned = 0 if embeds.contextualized_TD is None else len(embeds.aligned_A)
    own_sizes = (len(embeds.image_BD), num_aligned, len(embeds.short_S), len(region_text_RD), len(hard_ND))
    # Of each kind of rows how many every process has: all that has to be known to gather them.
    images, aligned, shorts, regions, hards = zip(*gather.row_counts(*own_sizes), strict=True)
    has_rows = {
        "short_clip_loss": sum(shorts),
        "beta_cal_loss": embeds.contextualized_TD is not None,
        "text_conditioned_loss": embeds.contextualized_TD is not None,
        "region_loss": sum(regions),
        "hard_negative_loss": sum(hards),
    }
    scale = {
        name: multiplier(log_scale)
        for name, log_scale in logit_scales.items()
        if getattr(config, f"{name}_weight") and has_rows.get(name, True)
    }
    losses = {}
    pairs = {
        "clip_loss": (embeds.image_BD, embeds.caption_B, images),
        "short_clip_loss": (embeds.image_BD[embeds.image_index_T[embeds.short_S]], embeds.short_S, shorts),
    }
    for name, (image_ND, text_N, counts) in pairs.items():
        if name in scale:
            text_ND, gather_pairs = embeds.text_TD[text_N], gather.sized(counts)
            losses[name] = clip_loss(image_ND, text_ND, logit_scale=scale[name], gather=gather_pairs)
    first_image = sum(images[: gather.rank])
    if "beta_cal_loss" in scale:
        losses["beta_cal_loss"] = _beta_cal(config, scale["beta_cal_loss"], embeds, first_image, gather.sized(aligned))
    if "text_conditioned_loss" in scale:
        gathers = (gather.sized(aligned), gather.sized(images))
        losses["text_conditioned_loss"] = _text_conditioned(
            config, scale["text_conditioned_loss"], embeds, first_image, *gathers
        )
    if "region_loss" in scale:
        text_id_R = _given(embeds.region_text_id_R, embeds.image_index_T[:0])
        losses["region_loss"] = region_loss(
            region_RD[: len(region_text_RD)],  # all of them, or none where their texts are not given
            region_text_RD,
            logit_scale=scale["region_loss"],
            text_id_R=text_id_R if config.mask_identical_region_texts else None,
            gather=gather.sized(regions),
        )
    if "hard_negative_loss" in scale:
        index_N = _given(embeds.hard_region_index_N, embeds.image_index_T[:0])
        own_mean = hard_negative_loss(region_RD, hard_ND, index_N, logit_scale=scale["hard_negative_loss"])
        # A mean over the flagged regions of all processes: two numbers each are enough, no embedding has to travel.
        flagged = (index_N.diff() != 0).sum() + min(1, len(index_N))
        total, count = gather.sum(torch.stack([own_mean * flagged, flagged.to(own_mean)]))
        losses["hard_negative_loss"] = total / count
    if not losses:
        raise ValueError("a loss needs a part of positive weight, but the configuration has none")
    return losses


def _beta_cal(config: Any, scale: Tensor, embeds: FlatEmbeds, first_image: int, gather: Any) -> Tensor:
    """`beta_cal_loss` of the captions, sentences and phrases."""
    assert embeds.aligned_A is not None and embeds.contextualized_TD is not None
    return beta_cal_loss(
        embeds.contextualized_TD[embeds.aligned_A],
        embeds.text_TD[embeds.aligned_A],
        embeds.image_index_T[embeds.aligned_A] + first_image,
        logit_scale=scale,
        beta=config.beta,
        kind=config.alignment_loss,
        gather=gather,
    )


def _text_conditioned(
    config: Any, scale: Tensor, embeds: FlatEmbeds, first_image: int, gather_texts: Any, gather_images: Any
) -> Tensor:
    """`text_conditioned_loss` of the captions, sentences and phrases of all processes, each with its own images."""
    if embeds.score_pairs is None:
        raise ValueError(
            "text_conditioned_loss_weight must be 0 where the patch features are not kept, as in a contrast over "
            f"micro-batches (contrastive_batch_size), but is {config.text_conditioned_loss_weight}"
        )
    assert embeds.aligned_A is not None
    text_AD = embeds.text_TD[embeds.aligned_A]
    image_index_A = embeds.image_index_T[embeds.aligned_A] + first_image
    if gather_texts is not None:
        text_AD, image_index_A = gather_texts(text_AD), gather_texts(image_index_A)
    scores_BA = embeds.score_pairs(text_AD)
    kind = config.alignment_loss
    return text_conditioned_loss(scores_BA, image_index_A, logit_scale=scale, kind=kind, gather=gather_images)


def _given(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if tensor is None else tensor


def multiplier(logit_scale: Tensor) -> Tensor:
    """exp of a log scale, in at least float32: 100 has no neighbour closer than 0.5 in bfloat16."""
    return logit_scale.to(torch.promote_types(logit_scale.dtype, torch.float32)).exp()


__all__ = ["FlatEmbeds", "batch_losses", "batch_objective", "multiplier"]
