"""
Hard negatives: does an image agree best with its true text, or with one in which a detail is wrong?

Letters: B images, N texts of all choices, G choices: a true text and its negatives, any number of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from .metrics import hard_negative_hits
from .results import Figure, mean_figure


@dataclass(frozen=True)
class Choice:
    """A choice between texts that all speak of one image, or of one region of it."""

    texts: list[str]
    """The true one, then its negatives."""
    kinds: list[str] | None = None
    """What is wrong in each negative."""
    box: Any = None
    """The region, in the `box_format` of the row."""
    subset: str | None = None
    """The part of the benchmark that it belongs to."""


def caption_choices(row: Row) -> list[Choice]:
    """The caption against the row's `hard_negatives`, captions with swapped attributes."""
    negatives = row.get("hard_negatives")
    return [Choice([row["caption"], *negatives], row.get("hard_negative_kinds"))] if negatives else []


def text_choices(row: Row) -> list[Choice]:
    """The row's `choices`: any number of texts of the whole image, each with negatives of its own."""
    return [Choice([one["text"], *one["negatives"]], subset=one.get("subset")) for one in row.get("choices") or []]


def region_choices(row: Row) -> list[Choice]:
    """The text of each of the row's `regions` against its negatives; regions without negatives are left out."""
    return [
        Choice([region["text"], *region["negatives"]], box=region["box"], subset=region.get("subset"))
        for region in row.get("regions") or []
        if region.get("negatives")
    ]


class HardNegativeProbe:
    """
    Accuracy of choosing the true text among its negatives, by CLS, by the text-conditioned score, which here pools the
    image for the true text and for the negatives alike, and, for choices with a box, by the feature of that region
    (RoIAlign of the patch features). A tie for the best of n counts 1/n; a box of which nothing is seen ties all of its
    texts.

    Where choices have subsets, each has figures of its own. Where they name the kinds of their negatives, so has each
    kind, over the choices that have it, against the negatives of that kind alone.

    Args:
        name: First part of the figures' names.
        embedder: Encodes the texts.
        choices: Per image, see [`caption_choices`] and [`region_choices`]; there must be one at least.
        whole_captions: Whether the texts are whole captions, see [`Embedder.texts`].
        conditioned: Whether to score with the pooler too.
        seed: Of the bootstrap intervals.

    Raises:
        ValueError: where a choice names kinds, but not one for each negative.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        choices: Sequence[list[Choice]],
        *,
        whole_captions: bool = False,
        conditioned: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.embedder, self.seed, self.choices = name, embedder, seed, choices
        self.conditioned = conditioned and embedder.has_pooler
        self.flat = [choice for of_image in choices for choice in of_image]
        for choice in self.flat:
            if choice.kinds is not None and len(choice.kinds) != len(choice.texts) - 1:
                raise ValueError(f"kinds of {name} must be {len(choice.texts) - 1} of {choice}, one for each negative")
        self.sizes_G = torch.tensor([len(choice.texts) for choice in self.flat])
        self.image_G = torch.tensor([image for image, of_image in enumerate(choices) for _ in of_image])
        self.has_regions = embedder.has_patch_features and any(choice.box is not None for choice in self.flat)
        texts = [text for choice in self.flat for text in choice.texts]
        self.text_embeds_ND = embedder.texts(texts, whole_captions=whole_captions)
        counts = [sum(len(choice.texts) for choice in of_image) for of_image in choices]
        self.first_text = [0, *accumulate(counts)]

    def measure(self, batch: ImageBatch) -> Kept:
        images = batch.image_index_B.tolist()
        places = [range(self.first_text[image], self.first_text[image + 1]) for image in images]
        if not any(places):
            return {}
        text_embeds_ND = self.text_embeds_ND[[text for of_image in places for text in of_image]]
        image_in_batch_N = torch.arange(len(images)).repeat_interleave(torch.tensor([len(texts) for texts in places]))
        image_in_batch_N = image_in_batch_N.to(text_embeds_ND.device)
        kept = {"cls": (batch.image_embeds_BD[image_in_batch_N] * text_embeds_ND).sum(dim=-1)}
        if self.conditioned:
            kept["conditioned"] = self.embedder.conditioned_scores(batch, text_embeds_ND, image_in_batch_N)
        if self.has_regions:
            kept["region"] = self._region_scores(batch, text_embeds_ND)
        return kept

    def _region_scores(self, batch: ImageBatch, text_embeds_ND: Tensor) -> Tensor:
        """(N,) cosine of each text with the feature of its choice's region."""
        choices = [self.choices[image] for image in batch.image_index_B.tolist()]
        region_embeds_GD = self.embedder.region_embeds(batch, [[one.box for one in of_image] for of_image in choices])
        sizes_G = torch.tensor([len(one.texts) for of_image in choices for one in of_image])
        group_N = torch.arange(len(sizes_G)).repeat_interleave(sizes_G).to(text_embeds_ND.device)
        return (region_embeds_GD[group_N] * text_embeds_ND).sum(dim=-1)

    def counts(self, kept: Kept) -> dict[str, int]:
        return {self.name: len(self.flat)}

    def figures(self, kept: Kept) -> dict[str, Figure]:
        choice_N = torch.arange(len(self.flat)).repeat_interleave(self.sizes_G)
        figures = self._figures(self.name, kept, choice_N, torch.ones_like(choice_N, dtype=torch.bool))
        subset_G = [choice.subset for choice in self.flat]
        for subset in sorted({one for one in subset_G if one is not None}):
            chosen_G = torch.tensor([one == subset for one in subset_G])
            figures |= self._figures(f"{self.name}[{subset}]", kept, choice_N, chosen_G[choice_N])
        kind_N = [kind for choice in self.flat for kind in (None, *(choice.kinds or [""] * (len(choice.texts) - 1)))]
        for kind in sorted({kind for kind in kind_N if kind}):
            of_kind_N, is_true_N = (torch.tensor([one == wanted for one in kind_N]) for wanted in (kind, None))
            has_kind_G = torch.zeros(len(self.flat), dtype=torch.bool)
            has_kind_G[choice_N[of_kind_N]] = True
            chosen_N = of_kind_N | (is_true_N & has_kind_G[choice_N])
            figures |= self._figures(f"{self.name}[{kind}]", kept, choice_N, chosen_N)
        return figures

    def _figures(self, name: str, kept: Kept, choice_N: Tensor, chosen_N: Tensor) -> dict[str, Figure]:
        groups, group_index, sizes = choice_N[chosen_N].unique_consecutive(return_inverse=True, return_counts=True)
        chance = float((1 / sizes.double()).mean())
        return {
            f"{name}/{score}/accuracy": mean_figure(
                hard_negative_hits(scores_N[chosen_N], group_index),
                chance=chance,
                cluster_index_N=self.image_G[groups],
                seed=self.seed,
            )
            for score, scores_N in kept.items()
        }
