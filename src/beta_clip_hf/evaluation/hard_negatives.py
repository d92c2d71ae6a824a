"""
Measures hard negatives: does an image agree best with its true text, or with one in which a detail is wrong?

A choice is a true text with its negatives. N in names of tensors counts the texts of all choices, I the choices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from ..inference.text_kinds import CAPTION, REGION_TEXT, SHORT_CAPTION
from .metric_names import MetricName
from .metrics import hard_negative_hits
from .results import Metric, mean_metric


@dataclass(frozen=True)
class Choice:
    """A choice between texts that all describe one image, or one region of it."""

    texts: list[str]
    """The true text, then its negatives."""
    kinds: list[str] | None = None
    """What is wrong in each negative."""
    box: Any = None
    """The region, in the `box_format` of the row; `None` for the whole image."""
    subset: str | None = None
    """Part of the benchmark that the choice belongs to."""


def caption_choices(row: Row) -> list[Choice]:
    """Returns the choice between the caption and the `hard_negatives` of a row, such as swapped attributes."""
    negatives = row.get("hard_negatives")
    if not negatives:
        return []
    return [Choice([row["caption"], *negatives], row.get("hard_negative_kinds"))]


def text_choices(row: Row) -> list[Choice]:
    """Returns the `choices` of a row: any number of texts of the whole image, each with negatives of its own."""
    choices = []
    for choice in row.get("choices") or []:
        choices.append(Choice([choice["text"], *choice["negatives"]], subset=choice.get("subset")))
    return choices


def region_choices(row: Row) -> list[Choice]:
    """Returns the choice between the text and the negatives of each of the `regions` of a row that has negatives."""
    choices = []
    for region in row.get("regions") or []:
        if region.get("negatives"):
            texts = [region["text"], *region["negatives"]]
            choices.append(Choice(texts, box=region["box"], subset=region.get("subset")))
    return choices


CHOICES: dict[str, Callable[[Row], list[Choice]]] = {
    "hard_negatives": caption_choices,
    "choices": text_choices,
    "region_negatives": region_choices,
}
"""For each probe of hard negatives, by its name, the function that takes its choices from a row."""
TEXT_KIND_OF_CHOICES = {"hard_negatives": CAPTION, "choices": SHORT_CAPTION, "region_negatives": REGION_TEXT}
"""For each probe of hard negatives the kind of its texts, which decides the text path in a model with several."""


def hard_negative_probes(
    embedder: Embedder, texts: Sequence[Row], *, conditioned: bool = True, seed: int = 0
) -> list["HardNegativeProbe"]:
    """
    Makes the probes of hard negatives that rows have the labels for, named as in [`CHOICES`].

    Args:
        embedder: Encodes the texts.
        texts: Rows without their images.
        conditioned: Whether to score with the text-conditioned pooler too.
        seed: Seed of the bootstrap intervals.
    """
    probes = []
    for name, choices_in in CHOICES.items():
        choices = [choices_in(row) for row in texts]
        if any(choices):
            kind = TEXT_KIND_OF_CHOICES[name]
            probes.append(HardNegativeProbe(name, embedder, choices, kind=kind, conditioned=conditioned, seed=seed))
    return probes


class HardNegativeProbe:
    """
    Measures the accuracy of choosing the true text among its negatives. The scores are:

    - `cls`: the cosine of image and text embedding;
    - `conditioned`: the text-conditioned score, which pools the image for the true text and for the negatives alike;
    - `region`: for choices with a box, the cosine of the text and the feature of that region (RoIAlign of the patch
      features).

    If n texts are tied for the best, it counts 1/n. A box of which nothing is seen ties all of its texts.

    Each subset of the choices has metrics of its own. So has each kind of negatives, over the choices that have it,
    against the negatives of that kind alone.

    Args:
        name: First part of the names of the metrics.
        embedder: Encodes the texts.
        choices: Choices of each image, see [`caption_choices`] and [`region_choices`]; there must be at least one.
        kind: The kind of the texts, see [`Embedder.texts`].
        conditioned: Whether to score with the text-conditioned pooler too.
        seed: Seed of the bootstrap intervals.

    Raises:
        ValueError: if a choice names kinds, but not one for each negative.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        choices: Sequence[list[Choice]],
        *,
        kind: str = SHORT_CAPTION,
        conditioned: bool = True,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.embedder = embedder
        self.seed = seed
        self.choices = choices
        self.conditioned = conditioned and embedder.has_pooler
        self.flat: list[Choice] = []
        image_index: list[int] = []
        texts: list[str] = []
        # The texts of image i are from first_text[i] to first_text[i + 1].
        self.first_text = [0]
        for image, image_choices in enumerate(choices):
            for choice in image_choices:
                _check_kinds(name, choice)
                self.flat.append(choice)
                image_index.append(image)
                texts += choice.texts
            self.first_text.append(len(texts))
        self.sizes_I = torch.tensor([len(choice.texts) for choice in self.flat])
        self.image_I = torch.tensor(image_index)
        has_boxes = any(choice.box is not None for choice in self.flat)
        self.has_regions = embedder.has_patch_features and has_boxes
        self.text_embeds_ND = embedder.texts(texts, kind)

    def measure(self, batch: ImageBatch) -> Kept:
        """Keeps the scores of all texts of the choices of a batch."""
        images = batch.image_index_B.tolist()
        text_numbers: list[int] = []
        num_texts = []
        for image in images:
            first, end = self.first_text[image], self.first_text[image + 1]
            text_numbers += range(first, end)
            num_texts.append(end - first)
        if not text_numbers:
            return {}
        # Every text is scored with the image of its own choice, and with no other.
        text_embeds_ND = self.text_embeds_ND[text_numbers]
        image_in_batch_N = torch.arange(len(images)).repeat_interleave(torch.tensor(num_texts))
        image_in_batch_N = image_in_batch_N.to(text_embeds_ND.device)
        kept = {"cls": (batch.image_embeds_BD[image_in_batch_N] * text_embeds_ND).sum(dim=-1)}
        if self.conditioned:
            kept["conditioned"] = self.embedder.conditioned_scores(batch, text_embeds_ND, image_in_batch_N)
        if self.has_regions:
            kept["region"] = self._region_scores(batch, text_embeds_ND)
        return kept

    def _region_scores(self, batch: ImageBatch, text_embeds_ND: Tensor) -> Tensor:
        """Returns the (N,) cosines of each text with the feature of the region of its choice."""
        boxes: list[list[Any]] = []
        sizes: list[int] = []
        for image in batch.image_index_B.tolist():
            boxes.append([choice.box for choice in self.choices[image]])
            sizes += [len(choice.texts) for choice in self.choices[image]]
        region_embeds_RD = self.embedder.region_embeds(batch, boxes)
        region_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(text_embeds_ND.device)
        return (region_embeds_RD[region_N] * text_embeds_ND).sum(dim=-1)

    def counts(self, kept: Kept) -> dict[str, int]:
        """Returns the number of choices."""
        return {self.name: len(self.flat)}

    def metrics(self, kept: Kept) -> list[Metric]:
        """Returns the accuracy by each score: of all choices, of each subset, and of each kind of negatives."""
        choice_N = torch.arange(len(self.flat)).repeat_interleave(self.sizes_I)
        everything_N = torch.ones_like(choice_N, dtype=torch.bool)
        metrics = self._accuracies("", kept, choice_N, everything_N)
        # A subset takes whole choices, a kind takes single negatives of choices.
        for subset, is_selected_I in self._subsets().items():
            metrics += self._accuracies(subset, kept, choice_N, is_selected_I[choice_N])
        for kind, is_selected_N in self._kinds(choice_N).items():
            metrics += self._accuracies(kind, kept, choice_N, is_selected_N)
        return metrics

    def _subsets(self) -> dict[str, Tensor]:
        """Returns for each subset, by its name, which choices belong to it: (I,) bool."""
        subset_I = [choice.subset for choice in self.flat]
        selected = {}
        for subset in sorted(set(filter(None, subset_I))):
            selected[subset] = torch.tensor([choice_subset == subset for choice_subset in subset_I])
        return selected

    def _kinds(self, choice_N: Tensor) -> dict[str, Tensor]:
        """
        Returns for each kind of negatives, by its name, which texts it compares: (N,) bool.

        These are the negatives of the kind, and the true texts of their choices.
        """
        kind_N: list[str] = []
        is_true: list[bool] = []
        for choice in self.flat:
            num_negatives = len(choice.texts) - 1
            # The true text and negatives without a name are of no kind.
            kind_N += ["", *(choice.kinds or [""] * num_negatives)]
            is_true += [True, *[False] * num_negatives]
        is_true_N = torch.tensor(is_true)
        selected = {}
        for kind in sorted(set(kind_N) - {""}):
            is_kind_N = torch.tensor([text_kind == kind for text_kind in kind_N])
            has_kind_I = torch.zeros(len(self.flat), dtype=torch.bool)
            has_kind_I[choice_N[is_kind_N]] = True
            selected[kind] = is_kind_N | (is_true_N & has_kind_I[choice_N])
        return selected

    def _accuracies(self, subset: str, kept: Kept, choice_N: Tensor, is_selected_N: Tensor) -> list[Metric]:
        """Returns the accuracy by each score among the selected texts."""
        groups, group_index, sizes = choice_N[is_selected_N].unique_consecutive(return_inverse=True, return_counts=True)
        # Choices differ in size, and so does their chance.
        chance = float((1 / sizes.double()).mean())
        metrics = []
        for score, scores_N in kept.items():
            metric = mean_metric(
                MetricName(self.name, score, "accuracy", subset=subset),
                hard_negative_hits(scores_N[is_selected_N], group_index),
                chance=chance,
                cluster_index_I=self.image_I[groups],
                seed=self.seed,
            )
            metrics.append(metric)
        return metrics


def _check_kinds(name: str, choice: Choice) -> None:
    num_negatives = len(choice.texts) - 1
    if choice.kinds is not None and len(choice.kinds) != num_negatives:
        raise ValueError(
            f"{name} must have a kind for each of the {num_negatives} negatives of {choice.texts[0]!r}, or no "
            f"kinds, but the kinds are {choice.kinds}"
        )
