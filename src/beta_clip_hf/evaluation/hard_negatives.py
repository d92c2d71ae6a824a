"""
Hard negatives: does an image agree best with its true text, or with one in which a detail is wrong?

Letters: B images, N texts of all groups, G groups: a true text and its negatives, any number of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..boxes_beta_clip import Box, box_in_view, cut_box, pixel_box, view_of_image
from ..data.rows import Row
from .embedding import Embedder, ImageBatch
from .metrics import hard_negative_hits
from .results import Figure, mean_figure


def caption_groups(row: Row) -> list[list[str]]:
    """The caption against the row's `hard_negatives`, captions with swapped attributes."""
    negatives = row.get("hard_negatives") or []
    return [[row["caption"], *negatives]] if negatives else []


def caption_kinds(row: Row) -> list[list[str]]:
    """What was exchanged in each of the row's `hard_negatives`, where the row says it in `hard_negative_kinds`."""
    return [list(row["hard_negative_kinds"])] if caption_groups(row) and row.get("hard_negative_kinds") else []


def region_groups(row: Row) -> list[list[str]]:
    """The text of each of the row's `regions` against its negatives; regions without negatives are left out."""
    regions = row.get("regions") or []
    return [[region["text"], *region["negatives"]] for region in regions if region.get("negatives")]


def region_boxes(row: Row) -> list[Any]:
    """The box of each group of [`region_groups`], in the row's `box_format`."""
    return [region["box"] for region in row.get("regions") or [] if region.get("negatives")]


class HardNegativeProbe:
    """
    Accuracy of choosing the true text of each group, by CLS, by the text-conditioned score, which here pools the image
    for the true text and for the negatives alike, and, for groups with a box, by the feature of that region (RoIAlign
    of the patch features). A tie for the best of n counts 1/n; a box of which nothing is seen ties all of its texts.

    Args:
        name: First part of the figures' names.
        embedder: Encodes the texts.
        groups: Per image its groups, see [`caption_groups`] and [`region_groups`]; there must be one at least.
        kinds: Per image and group the kind of each negative; every kind then has figures of its own, over the groups
            that have it, against the negatives of that kind alone.
        boxes: Per image and group the box it speaks of, see [`region_boxes`].
        whole_captions: Whether the texts are whole captions, see [`Embedder.texts`].
        conditioned: Whether to score with the pooler too.
        seed: Of the bootstrap intervals.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        groups: Sequence[list[list[str]]],
        *,
        kinds: Sequence[list[list[str]]] | None = None,
        boxes: Sequence[list[Any]] | None = None,
        whole_captions: bool = False,
        conditioned: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.embedder, self.seed, self.groups = name, embedder, seed, groups
        self.conditioned = conditioned and embedder.has_pooler
        self.sizes_G = torch.tensor([len(group) for of_image in groups for group in of_image])
        self.image_G = torch.tensor([image for image, of_image in enumerate(groups) for _ in of_image])
        self.boxes, self.whole_captions = boxes if embedder.has_patch_features else None, whole_captions
        used = {"cls": True, "conditioned": self.conditioned, "region": self.boxes is not None}
        self.scores: dict[str, list[Tensor]] = {score: [] for score, is_used in used.items() if is_used}
        self.counts = {name: len(self.sizes_G)}
        self.kinds_N = None if kinds is None else [k for image in kinds for group in image for k in (None, *group)]
        if self.kinds_N is not None and len(self.kinds_N) != int(self.sizes_G.sum()):
            raise ValueError(
                f"kinds must name each of the negatives of {name}, but are {len(self.kinds_N)} with the true"
            )

    def update(self, batch: ImageBatch) -> None:
        texts, image_in_batch = [], []
        for place, image in enumerate(batch.image_index_B.tolist()):
            for group in self.groups[image]:
                texts += group
                image_in_batch += [place] * len(group)
        if not texts:
            return
        text_embeds_ND = self.embedder.texts(texts, whole_captions=self.whole_captions)
        image_in_batch_N = torch.tensor(image_in_batch, device=text_embeds_ND.device)
        self.scores["cls"].append((batch.image_embeds_BD[image_in_batch_N] * text_embeds_ND).sum(dim=-1).cpu())
        if self.conditioned:
            conditioned = self.embedder.conditioned_scores(batch, text_embeds_ND, image_in_batch_N)
            self.scores["conditioned"].append(conditioned.cpu())
        if self.boxes is not None:
            self.scores["region"].append(self._region_scores(batch, text_embeds_ND).cpu())

    def _region_scores(self, batch: ImageBatch, text_embeds_ND: Tensor) -> Tensor:
        """(N,) cosine of each text with the feature of its group's region."""
        assert self.boxes is not None
        processor = self.embedder.processor.image_processor
        boxes: list[Box] = []
        images: list[int] = []
        sizes: list[int] = []
        for place, image in enumerate(batch.image_index_B.tolist()):
            size, box_format = batch.sizes[place], batch.rows[place].get("box_format", "xyxy_pixels")
            view = view_of_image(size, processor)
            boxes += [cut_box(box_in_view(pixel_box(box, box_format, size), view)) for box in self.boxes[image]]
            images += [place] * len(self.boxes[image])
            sizes += map(len, self.groups[image])
        device = text_embeds_ND.device
        region_embeds_GD = self.embedder.region_embeds(
            batch, torch.tensor(boxes, dtype=torch.float32, device=device), torch.tensor(images, device=device)
        )
        group_N = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
        return (region_embeds_GD[group_N] * text_embeds_ND).sum(dim=-1)

    def figures(self) -> dict[str, Figure]:
        group_index_N = torch.arange(len(self.sizes_G)).repeat_interleave(self.sizes_G)
        figures = self._figures(self.name, group_index_N, torch.ones_like(group_index_N, dtype=torch.bool))
        for kind in sorted({kind for kind in self.kinds_N or () if kind is not None}):
            of_kind_N = torch.tensor([one == kind for one in self.kinds_N or ()])
            has_kind_G = torch.zeros(len(self.sizes_G), dtype=torch.bool)
            has_kind_G[group_index_N[of_kind_N]] = True
            is_true_N = torch.tensor([one is None for one in self.kinds_N or ()])
            chosen_N = of_kind_N | (is_true_N & has_kind_G[group_index_N])
            figures |= self._figures(f"{self.name}[{kind}]", group_index_N, chosen_N)
        return figures

    def _figures(self, name: str, group_index_N: Tensor, chosen_N: Tensor) -> dict[str, Figure]:
        groups, group_index, sizes = group_index_N[chosen_N].unique_consecutive(return_inverse=True, return_counts=True)
        chance = float((1 / sizes.double()).mean())
        return {
            f"{name}/{score}/accuracy": mean_figure(
                hard_negative_hits(torch.cat(parts)[chosen_N], group_index),
                chance=chance,
                cluster_index_N=self.image_G[groups],
                seed=self.seed,
            )
            for score, parts in self.scores.items()
        }
