# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""From the embeddings of a flat batch to the named parts of its loss, in one process or over several.

[`LOSS_PARTS`] lists the parts. A new part takes three steps: a field `…_loss_weight` in the configuration of the models
that can have it, a function that computes it, and a row of the table. A logit scale of its own needs no more than its
name in that row: the model makes the parameter and starts it from CLIP's, training clamps and logs it, and exports
leave it out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configuration_beta_clip import BetaCLIPConfig
from .gather_beta_clip import Gather, OneProcess
from .loss_beta_clip import (
    beta_cal_loss,
    clip_loss,
    hard_negative_loss,
    region_loss,
    text_conditioned_loss,
    text_negative_loss,
)
from .loss_inputs_beta_clip import FlatEmbeds, LossInputs, or_empty
from .loss_parts_beta_siglip2 import (
    hard_contrast_part,
    intra_text_part,
    rank_part,
    short_sigmoid_part,
    sigmoid_part,
)
from .tiled_beta_clip import at_least_float32


# Turns the embeddings of a batch and the logarithms of the logit scales into the loss and its named parts.
Objective = Callable[[FlatEmbeds, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class LossPart:
    """
    Describes one part of the loss.

    Args:
        function: Computes the unweighted part from the inputs and the multiplier s.
        weight: The field of the configuration that weighs the part; with 0, or without the field, it is not computed.
        logit_scale: The parameter of the model that holds the logarithm of s; ends in "logit_scale". The model makes
            it, unless it is CLIP's or that of a module (`pooler.logit_scale`).
        rows: The kind of rows that the part needs, see [`FlatEmbeds.row_counts`]. The part is computed if any process
            has such rows.
        requires: The switch of `BetaCLIPConfig` that gives a model this scale; `None` where every model has it.
    """

    function: Callable[[LossInputs, Tensor], Tensor]
    weight: str
    logit_scale: str
    rows: str
    requires: str | None = None

    def weight_in(self, config: Any) -> float:
        """Returns the weight of the part in a configuration; 0 where models of its kind do not have the part."""
        return getattr(config, self.weight, 0.0)

    def is_possible(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of this configuration has the logit scale; a missing value is the default."""
        # The switch may be one that a subclass of the configuration adds.
        return self.requires is None or bool(config.get(self.requires, getattr(BetaCLIPConfig, self.requires, False)))


def batch_objective(
    config: Any,
    embeds: FlatEmbeds,
    logit_scales: dict[str, Tensor],
    gather: Gather | None = None,
    modules: Mapping[str, Any] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss Σ weight · part and its parts, see [`batch_losses`]."""
    losses = batch_losses(config, embeds, logit_scales, gather, modules)
    weighted = [LOSS_PARTS[name].weight_in(config) * part for name, part in losses.items()]
    return sum(weighted[1:], start=weighted[0]), losses


def batch_losses(
    config: Any,
    embeds: FlatEmbeds,
    logit_scales: dict[str, Tensor],
    gather: Gather | None = None,
    modules: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    r"""
    Computes the parts of the loss that have a weight, that the model has a scale for, and that the batch has rows for.

    A part is computed if any process has rows for it: all processes compute the same parts, in the same order.

    Args:
        config (`BetaCLIPConfig`): Read for the weights, `beta` and `alignment_loss`.
        embeds: The batch, with `caption`, `short` and `aligned`.
        logit_scales (`dict[str, Tensor]`):
            The logarithm of s for each part that the model can compute, by its name; and the bias of a sigmoid
            contrast as "logit_bias".
        gather (*optional*): Joins several processes.
        modules (*optional*): The modules of the model that keep something from step to step, by the part.

    Returns:
        The parts by name, unweighted scalars; every process holds the value of the whole batch.

    Raises:
        ValueError: If no part has weight.

    Source: arXiv 2512.12678 (`clip_loss`, `beta_cal_loss`), arXiv 2510.10921 (`loss_parts_beta_siglip2.py`), arXiv
    2505.05071 (the other parts).
    """
    gather = OneProcess() if gather is None else gather
    own_counts = embeds.row_counts()
    # One exchange tells everything that has to be known to gather the rows of all parts.
    counts_by_rank = gather.row_counts(*own_counts.values())
    counts = {}
    for column, kind in enumerate(own_counts):
        counts[kind] = [process_counts[column] for process_counts in counts_by_rank]
    inputs = LossInputs(config, embeds, gather, counts, logit_scales.get("logit_bias"), modules or {})
    losses = {}
    for name, part in LOSS_PARTS.items():
        if name in logit_scales and part.weight_in(config) and sum(counts[part.rows]):
            losses[name] = part.function(inputs, multiplier(logit_scales[name]))
    if not losses:
        raise ValueError("a loss needs a part of positive weight, but the configuration has none")
    return losses


def _clip(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `clip_loss` of the images and their captions."""
    pairs = inputs.caption_pairs()
    return clip_loss(pairs.image_JD, pairs.text_JD, logit_scale=logit_scale, gather=pairs.gather)


def _short_clip(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `clip_loss` of the short captions and their images."""
    pairs = inputs.short_caption_pairs()
    return clip_loss(pairs.image_JD, pairs.text_JD, logit_scale=logit_scale, gather=pairs.gather)


def _beta_cal(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `beta_cal_loss` of the captions, sentences and phrases."""
    embeds = inputs.embeds
    assert embeds.contextualized_TD is not None
    return _alignment(inputs, inputs.aligned(embeds.contextualized_TD), logit_scale)


def _text_clip(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `beta_cal_loss` with the image embedding in the place of the contextualised ones."""
    embeds = inputs.embeds
    return _alignment(inputs, embeds.image_BD[inputs.aligned(embeds.image_index_T)], logit_scale)


def _alignment(inputs: LossInputs, image_AD: Tensor, logit_scale: Tensor) -> Tensor:
    """
    Returns `beta_cal_loss` of the captions, sentences and phrases.

    Args:
        inputs: The batch.
        image_AD: An embedding of the image of each of these texts.
        logit_scale: s.
    """
    embeds = inputs.embeds
    return beta_cal_loss(
        image_AD,
        inputs.aligned(embeds.text_TD),
        inputs.aligned_images(),
        logit_scale=logit_scale,
        beta=inputs.config.beta,
        kind=inputs.config.alignment_loss,
        text_id_T=None if embeds.text_id_T is None else inputs.aligned(embeds.text_id_T),
        gather=inputs.gather_of("aligned_texts"),
    )


def _text_conditioned(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `text_conditioned_loss` of this process's images with the texts of all processes."""
    embeds = inputs.embeds
    if embeds.score_pairs is None:
        raise ValueError(
            "text_conditioned_loss_weight must be 0 where the patch features are not kept, as in a contrast over "
            f"micro-batches (contrastive_batch_size), but is {inputs.config.text_conditioned_loss_weight}"
        )
    gather_texts = inputs.gather_of("aligned_texts")
    text_AD = gather_texts(inputs.aligned(embeds.text_TD))
    image_index_A = gather_texts(inputs.aligned_images())
    return text_conditioned_loss(
        embeds.score_pairs(text_AD),
        image_index_A,
        logit_scale=logit_scale,
        kind=inputs.config.alignment_loss,
        gather=inputs.gather_of("images"),
    )


def _region(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `region_loss` of the boxes and their texts."""
    embeds = inputs.embeds
    # A process without region texts takes part in the exchange with no rows, even if it has boxes.
    region_text_RD = or_empty(embeds.region_text_RD, embeds.image_BD)
    region_RD = or_empty(embeds.region_RD, embeds.image_BD)[: len(region_text_RD)]
    text_id_R = None
    if inputs.config.mask_identical_region_texts:
        text_id_R = or_empty(embeds.region_text_id_R, embeds.image_index_T)
    return region_loss(
        region_RD, region_text_RD, logit_scale=logit_scale, text_id_R=text_id_R, gather=inputs.gather_of("regions")
    )


def _hard_negative(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `hard_negative_loss` as a mean over the flagged regions of all processes."""
    rows = inputs.hard_rows()
    own_mean = hard_negative_loss(*rows, logit_scale=logit_scale)
    return _mean_over_processes(inputs.gather, own_mean, rows.index_N)


def _text_negative(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `text_negative_loss` of the image embeddings."""
    embeds = inputs.embeds
    image_TD = embeds.image_BD[embeds.image_index_T]
    index_n = or_empty(embeds.negative_text_index_n, embeds.image_index_T)
    return _loss_of_negatives(inputs, image_TD, image_TD[index_n], logit_scale)


def _conditioned_negative(inputs: LossInputs, logit_scale: Tensor) -> Tensor:
    """Computes `text_negative_loss` of the images as they are pooled for each text and for each negative."""
    embeds = inputs.embeds
    assert embeds.contextualized_TD is not None
    pooled_nD = or_empty(embeds.contextualized_negative_nD, embeds.contextualized_TD)
    return _loss_of_negatives(inputs, embeds.contextualized_TD, pooled_nD, logit_scale)


def _loss_of_negatives(inputs: LossInputs, image_TD: Tensor, image_nD: Tensor, logit_scale: Tensor) -> Tensor:
    """
    Returns the mean of `text_negative_loss` over the flagged texts of all processes.

    Args:
        inputs: The batch.
        image_TD: An embedding of the image of each text, which the text is compared with.
        image_nD: The same for each negative.
        logit_scale: s.
    """
    embeds = inputs.embeds
    negative_nD = or_empty(embeds.negative_nD, embeds.text_TD)
    index_n = or_empty(embeds.negative_text_index_n, embeds.image_index_T)
    scores_T = (at_least_float32(image_TD) * at_least_float32(embeds.text_TD)).sum(dim=-1)
    scores_n = (at_least_float32(image_nD) * at_least_float32(negative_nD)).sum(dim=-1)
    own_mean = text_negative_loss(scores_T, scores_n, index_n, logit_scale=logit_scale)
    return _mean_over_processes(inputs.gather, own_mean, index_n)


def _mean_over_processes(gather: Gather, own_mean: Tensor, index_N: Tensor) -> Tensor:
    """
    Returns the mean over the lists of all processes.

    Args:
        gather: Joins the processes.
        own_mean: The mean over the lists of this process.
        index_N: A number for the list of each hard text, non-decreasing.
    """
    num_lists = (index_N.diff() != 0).sum() + min(1, len(index_N))
    # A list is compared with one image or region: two numbers per process are enough, no embedding has to travel.
    total, count = gather.sum(torch.stack([own_mean * num_lists, num_lists.to(own_mean)]))
    return total / count


# The parts of the loss, in the order in which they are computed, summed and logged.
LOSS_PARTS: dict[str, LossPart] = {
    "clip_loss": LossPart(_clip, weight="clip_loss_weight", logit_scale="logit_scale", rows="images"),
    "short_clip_loss": LossPart(
        _short_clip, weight="short_clip_loss_weight", logit_scale="logit_scale", rows="short_captions"
    ),
    "beta_cal_loss": LossPart(
        _beta_cal,
        weight="beta_cal_loss_weight",
        logit_scale="pooler.logit_scale",
        rows="aligned_texts",
        requires="use_pooler",
    ),
    "text_clip_loss": LossPart(
        _text_clip, weight="text_clip_loss_weight", logit_scale="logit_scale", rows="aligned_texts"
    ),
    "text_conditioned_loss": LossPart(
        _text_conditioned,
        weight="text_conditioned_loss_weight",
        logit_scale="pooler.logit_scale",
        rows="aligned_texts",
        requires="use_pooler",
    ),
    "region_loss": LossPart(
        _region,
        weight="region_loss_weight",
        logit_scale="region_logit_scale",
        rows="regions",
        requires="use_regions",
    ),
    "hard_negative_loss": LossPart(
        _hard_negative,
        weight="hard_negative_loss_weight",
        logit_scale="hard_negative_logit_scale",
        rows="hard_texts",
        requires="use_regions",
    ),
    "text_negative_loss": LossPart(
        _text_negative, weight="text_negative_loss_weight", logit_scale="logit_scale", rows="negatives"
    ),
    "conditioned_negative_loss": LossPart(
        _conditioned_negative,
        weight="conditioned_negative_loss_weight",
        logit_scale="pooler.logit_scale",
        rows="negatives",
        requires="use_pooler",
    ),
    "sigmoid_loss": LossPart(sigmoid_part, weight="sigmoid_loss_weight", logit_scale="logit_scale", rows="images"),
    "short_sigmoid_loss": LossPart(
        short_sigmoid_part, weight="short_sigmoid_loss_weight", logit_scale="logit_scale", rows="short_captions"
    ),
    "intra_text_loss": LossPart(
        intra_text_part,
        weight="intra_text_loss_weight",
        logit_scale="region_logit_scale",
        rows="regions",
        requires="use_regions",
    ),
    "hard_contrast_loss": LossPart(
        hard_contrast_part,
        weight="hard_contrast_loss_weight",
        logit_scale="hard_negative_logit_scale",
        rows="hard_texts",
        requires="use_regions",
    ),
    "rank_loss": LossPart(
        rank_part,
        weight="rank_loss_weight",
        logit_scale="hard_negative_logit_scale",
        rows="hard_texts",
        requires="use_regions",
    ),
}


def needs_rows(config: Any, rows: str) -> bool:
    """Tells whether a part of positive weight needs rows of a kind, see [`LossPart`]."""
    return any(part.rows == rows and part.weight_in(config) for part in LOSS_PARTS.values())


def added_logit_scales(config: Any = None) -> list[str]:
    """
    Returns the names of the logit scales that the parts add to those of CLIP and of modules, each once.

    Args:
        config (`BetaCLIPConfig`, *optional*): Only the scales that a model of this configuration has; by default all.
    """
    names = []
    for part in LOSS_PARTS.values():
        has_scale = config is None or part.requires is None or getattr(config, part.requires)
        is_added = part.logit_scale != "logit_scale" and "." not in part.logit_scale
        if has_scale and is_added and part.logit_scale not in names:
            names.append(part.logit_scale)
    return names


def multiplier(logit_scale: Tensor) -> Tensor:
    """Returns exp of a log scale, in at least float32: 100 has no neighbour closer than 0.5 in bfloat16."""
    scale: Tensor = at_least_float32(logit_scale)
    return scale.exp()


__all__ = [
    "LOSS_PARTS",
    "LossPart",
    "Objective",
    "added_logit_scales",
    "batch_losses",
    "batch_objective",
    "multiplier",
    "needs_rows",
]
