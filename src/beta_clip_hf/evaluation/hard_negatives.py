"""
Hard negatives: does an image agree best with its true text, or with one in which a detail is wrong?

Letters: B images, N texts of all groups, G groups: a true text and its negatives, any number of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.rows import Row
from .embedding import Embedder, ImageBatch
from .metrics import hard_negative_hits
from .results import Figure, mean_figure


def caption_groups(row: Row) -> list[list[str]]:
    """The caption against the row's `hard_negatives`, captions with swapped attributes."""
    negatives = row.get("hard_negatives") or []
    return [[row["caption"], *negatives]] if negatives else []


def region_groups(row: Row) -> list[list[str]]:
    """The text of each of the row's `regions` against its negatives; regions without negatives are left out."""
    regions = row.get("regions") or []
    return [[region["text"], *region["negatives"]] for region in regions if region.get("negatives")]


class HardNegativeProbe:
    """
    Accuracy of choosing the true text of each group, by CLS and by the text-conditioned score, which here pools the
    image for the true text and for the negatives alike. A tie for the best of n counts 1/n.

    Args:
        name: First part of the figures' names.
        embedder: Encodes the texts.
        groups: Per image its groups, see [`caption_groups`] and [`region_groups`]; there must be one at least.
        conditioned: Whether to score with the pooler too.
        seed: Of the bootstrap intervals.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        groups: Sequence[list[list[str]]],
        *,
        conditioned: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.embedder, self.seed, self.groups = name, embedder, seed, groups
        self.conditioned = conditioned and embedder.has_pooler
        self.sizes_G = torch.tensor([len(group) for of_image in groups for group in of_image])
        self.image_G = torch.tensor([image for image, of_image in enumerate(groups) for _ in of_image])
        self.scores: dict[str, list[Tensor]] = {score: [] for score in ("cls", "conditioned")[: 1 + self.conditioned]}
        self.counts = {name: len(self.sizes_G)}

    def update(self, batch: ImageBatch) -> None:
        texts, image_in_batch = [], []
        for place, image in enumerate(batch.image_index_B.tolist()):
            for group in self.groups[image]:
                texts += group
                image_in_batch += [place] * len(group)
        if not texts:
            return
        text_embeds_ND = self.embedder.texts(texts)
        image_in_batch_N = torch.tensor(image_in_batch, device=text_embeds_ND.device)
        self.scores["cls"].append((batch.image_embeds_BD[image_in_batch_N] * text_embeds_ND).sum(dim=-1).cpu())
        if self.conditioned:
            conditioned = self.embedder.conditioned_scores(batch, text_embeds_ND, image_in_batch_N)
            self.scores["conditioned"].append(conditioned.cpu())

    def figures(self) -> dict[str, Figure]:
        group_index_N = torch.arange(len(self.sizes_G)).repeat_interleave(self.sizes_G)
        chance = float((1 / self.sizes_G.double()).mean())
        return {
            f"{self.name}/{score}/accuracy": mean_figure(
                hard_negative_hits(torch.cat(parts), group_index_N),
                chance=chance,
                cluster_index_N=self.image_G,
                seed=self.seed,
            )
            for score, parts in self.scores.items()
        }
