"""
Zero-shot classification of images, and of boxes by the features of their regions.

Letters: N images or boxes, C classes, U classes with a name of their own, M templates, D projection width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from .metrics import MatchRanks, chance_ranks, hits_at_k, match_ranks
from .results import Figure, mean_figure


KS = (1, 5)
PLAIN_TEMPLATES = ("a photo of a {}.",)


class Classes(NamedTuple):
    """What there is to choose from."""

    names: Sequence[str]
    """A label counts from 0 in this order."""
    templates: Sequence[str] = PLAIN_TEMPLATES
    """Prompts, in which {} stands for the name."""


def class_embeds(embedder: Embedder, classes: Classes) -> Tensor:
    """
    (C, D) float32, normalised: of each class the mean of the normalised embeddings of all its prompts.

    Raises:
        ValueError: where there is no class or no template, or a template has no {}.

    Source: Radford et al. 2021 (CLIP), prompt ensembling.
    """
    names, templates = classes
    if not names or not templates:
        raise ValueError(f"classes must have names and templates, but have {len(names)} and {len(templates)}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates must hold {{}} for the name of a class, but one is {template!r}")
    texts_ND = embedder.texts([template.replace("{}", name) for name in names for template in templates])
    return normalize(texts_ND.unflatten(0, (len(names), len(templates))).mean(dim=1), dim=-1)


def classification_probes(
    embedder: Embedder, texts: Sequence[Row], classes: Classes, *, seed: int = 0
) -> list["ClassificationProbe"]:
    """A probe named `classes` for the images that have a `label`, and one named `boxes` for `regions` that have one."""
    labels = [[row["label"]] if "label" in row else [] for row in texts]
    labelled = [[region for region in row.get("regions") or () if "label" in region] for row in texts]
    of_boxes = [[region["label"] for region in of_image] for of_image in labelled]
    boxes = [[region["box"] for region in of_image] for of_image in labelled]
    probes = []
    if any(labels):
        probes.append(ClassificationProbe("classes", embedder, labels, classes, seed=seed))
    if any(boxes):
        probes.append(ClassificationProbe("boxes", embedder, of_boxes, classes, boxes=boxes, seed=seed))
    return probes


class ClassificationProbe:
    """
    Accuracy of the first, and of the first five, of all classes by cosine: with `cls`, the whole image, and, for boxes,
    with `region`, the feature of the region, where the model has patch features. Ties count as the expected value; a
    box of which nothing is seen ties all classes. The mean is over all images or boxes, not over classes.

    Args:
        name: First part of the figures' names.
        embedder: Encodes the prompts.
        labels: Per image its labels, none or one; or one for each box.
        classes: What the labels are of.
        boxes: Per image the boxes that its labels are of, in the `box_format` of its row.
        seed: Of the bootstrap intervals.

    Raises:
        ValueError: where a label is not the place of a class, and as [`class_embeds`].
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        labels: Sequence[Sequence[int]],
        classes: Classes,
        *,
        boxes: Sequence[Sequence[Sequence[float]]] | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.embedder, self.seed = name, embedder, seed
        self.labels, self.boxes, self.num_classes = labels, boxes, len(classes.names)
        for label in (label for of_image in labels for label in of_image):
            if not (isinstance(label, int) and 0 <= label < self.num_classes):
                raise ValueError(f"label must be a whole number from 0 to {self.num_classes - 1}, but is {label!r}")
        # Copies of a class would not be tied to the last bit by a matrix product.
        names = list(dict.fromkeys(classes.names))
        self.class_embeds_UD = class_embeds(embedder, classes._replace(names=names))
        self.place_C = torch.tensor([names.index(one) for one in classes.names], device=self.class_embeds_UD.device)

    def measure(self, batch: ImageBatch) -> Kept:
        images = batch.image_index_B.tolist()
        labels_N = torch.tensor([label for image in images for label in self.labels[image]], dtype=torch.int64)
        counts_B = torch.tensor([len(self.labels[image]) for image in images])
        embeds_ND = {"cls": batch.image_embeds_BD.repeat_interleave(counts_B.to(batch.image_embeds_BD.device), dim=0)}
        if self.boxes is not None and self.embedder.has_patch_features:
            embeds_ND["region"] = self.embedder.region_embeds(batch, [self.boxes[image] for image in images])
        kept = {"image": batch.image_index_B.repeat_interleave(counts_B)}
        for score, one_ND in embeds_ND.items():
            scores_NC = (one_ND @ self.class_embeds_UD.T)[:, self.place_C]
            ranks = match_ranks(scores_NC.cpu(), labels_N)
            kept |= {f"{score}/{what}": values_N for what, values_N in ranks._asdict().items()}
        return kept

    def counts(self, kept: Kept) -> dict[str, int]:
        return {
            f"labelled_{'images' if self.boxes is None else 'boxes'}": len(kept["image"]),
            "classes": self.num_classes,
        }

    def figures(self, kept: Kept) -> dict[str, Figure]:
        chance = chance_ranks(self.num_classes, torch.ones(1, dtype=torch.int64))
        figures = {}
        for score in dict.fromkeys(name.partition("/")[0] for name in kept if "/" in name):
            ranks = MatchRanks(*(kept[f"{score}/{what}"] for what in MatchRanks._fields))
            for k in KS:
                figures[f"{self.name}/{score}/top{k}"] = mean_figure(
                    hits_at_k(ranks, k),
                    chance=float(hits_at_k(chance, k)),
                    cluster_index_N=kept["image"],
                    seed=self.seed,
                )
        return figures
