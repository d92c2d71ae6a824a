# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the parts of the loss compute from: the embeddings of a flat batch, and the other processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .gather_beta_clip import Gather


@dataclass
class FlatEmbeds:
    """
    Holds the L2-normalised embeddings of one process's batch, and which of them belong together (see `BatchPlan`).

    `score_pairs` maps texts `(T, D)` to their text-conditioned scores `(B, T)` with the images, where a loss asks.
    """

    image_BD: Tensor
    text_TD: Tensor
    image_index_T: Tensor
    caption_B: Tensor | None = None
    short_J: Tensor | None = None
    aligned_A: Tensor | None = None
    text_id_T: Tensor | None = None
    contextualized_TD: Tensor | None = None
    score_pairs: Callable[[Tensor], Tensor] | None = None
    region_RD: Tensor | None = None
    region_text_RD: Tensor | None = None
    region_text_id_R: Tensor | None = None
    hard_text_ND: Tensor | None = None
    hard_region_index_N: Tensor | None = None
    negative_nD: Tensor | None = None
    negative_text_index_n: Tensor | None = None
    contextualized_negative_nD: Tensor | None = None

    def row_counts(self) -> dict[str, int]:
        """Returns how many rows of each kind a loss can use."""
        assert self.short_J is not None and self.aligned_A is not None, "a loss needs to know the kinds of the texts"
        return {
            "images": len(self.image_BD),
            "aligned_texts": len(self.aligned_A),
            "short_captions": len(self.short_J),
            "regions": 0 if self.region_text_RD is None else len(self.region_text_RD),
            "hard_texts": 0 if self.hard_text_ND is None else len(self.hard_text_ND),
            "negatives": 0 if self.negative_nD is None else len(self.negative_nD),
        }


class Pairs(NamedTuple):
    """Rows of images and of texts that belong together, and what gathers those of all processes."""

    image_JD: Tensor
    text_JD: Tensor
    gather: Gather


class HardRows(NamedTuple):
    """The regions `(R, D)`, the hard texts `(N, D)`, and the region `(N,)` of each of these."""

    region_RD: Tensor
    text_ND: Tensor
    index_N: Tensor


@dataclass
class LossInputs:
    """
    Holds what the function of a loss part computes from.

    Args:
        config (`BetaCLIPConfig`): Read for the settings of the part.
        embeds: The batch of this process.
        gather: Joins the processes.
        counts: How many rows each process has, by rank, for each kind of rows.
        logit_bias (*optional*): The bias of a sigmoid contrast.
        modules: The modules of the model that keep something from step to step, by the part of the loss.
    """

    config: Any
    embeds: FlatEmbeds
    gather: Gather
    counts: dict[str, list[int]]
    logit_bias: Tensor | None = None
    modules: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first_image(self) -> int:
        """The place of this process's first image among the images of all processes."""
        return sum(self.counts["images"][: self.gather.rank])

    def aligned(self, rows_T: Tensor) -> Tensor:
        """Returns the rows of the captions, sentences and phrases among the rows of all texts."""
        aligned_A = self.embeds.aligned_A
        assert aligned_A is not None
        # They are in ascending order, so as many as there are texts are all of them. In a compiled graph the question
        # would be one more size that it is compiled for.
        if len(aligned_A) == len(rows_T) and not torch.compiler.is_compiling():
            return rows_T
        return rows_T.index_select(0, aligned_A)

    def aligned_images(self) -> Tensor:
        """Returns the image of each of these texts, numbered over the images of all processes."""
        image_index_A = self.aligned(self.embeds.image_index_T)
        return image_index_A + self.first_image if self.first_image else image_index_A

    def gather_of(self, kind: str) -> Gather:
        """Returns a gather of rows of one kind, which exchanges no sizes again."""
        return self.gather.sized(self.counts[kind])

    def caption_pairs(self) -> Pairs:
        """Returns the images and their captions."""
        embeds = self.embeds
        return Pairs(embeds.image_BD, embeds.text_TD[embeds.caption_B], self.gather_of("images"))

    def short_caption_pairs(self) -> Pairs:
        """Returns the short captions and their images."""
        embeds = self.embeds
        image_JD = embeds.image_BD[embeds.image_index_T[embeds.short_J]]
        return Pairs(image_JD, embeds.text_TD[embeds.short_J], self.gather_of("short_captions"))

    def hard_rows(self) -> HardRows:
        """Returns the flagged regions with their texts; of a process that has none, no rows."""
        embeds = self.embeds
        return HardRows(
            or_empty(embeds.region_RD, embeds.image_BD),
            or_empty(embeds.hard_text_ND, embeds.image_BD),
            or_empty(embeds.hard_region_index_N, embeds.image_index_T),
        )


def or_empty(rows: Tensor | None, like: Tensor) -> Tensor:
    """Returns the rows, or no rows of the width and dtype of other rows."""
    return like[:0] if rows is None else rows


__all__ = ["FlatEmbeds", "HardRows", "LossInputs", "Pairs", "or_empty"]
