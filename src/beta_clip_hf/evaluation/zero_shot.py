"""
Measures zero-shot classification of images, and of boxes by the features of their regions.

The gallery is the classes: G in names of tensors counts classes, U those with a name of their own, I images or boxes.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..data.rows import Row
from ..inference.embedder import Embedder, ImageBatch
from ..inference.shards import Kept
from ..inference.text_kinds import REGION_TEXT, SHORT_CAPTION
from .metric_names import MetricName
from .metrics import MatchRanks, chance_ranks, hits_at_k, match_ranks
from .results import Metric, mean_metric


KS = (1, 5)
PLAIN_TEMPLATES = ("a photo of a {}.",)
# Subset in the names of metrics by these, where others are the main ones.
PLAIN = "plain"
SCORES = ("cls", "region")


class Classes(NamedTuple):
    """Holds the classes to choose from."""

    names: Sequence[str]
    """Names of the classes; a label is an index of this sequence."""
    templates: Sequence[str] = PLAIN_TEMPLATES
    """Prompts, in which {} stands for the name."""


def class_embeds(embedder: Embedder, classes: Classes, kind: str = SHORT_CAPTION) -> Tensor:
    """
    Embeds each class as the normalised mean of the embeddings of all its prompts: (G, D) float32.

    Args:
        embedder: Encodes the prompts.
        classes: The classes.
        kind: The kind of the prompts, see [`Embedder.texts`].

    Raises:
        ValueError: if there is no class or no template, or a template has no {}.

    Source: Radford et al. 2021 (CLIP), prompt ensembling.
    """
    names, templates = classes
    if not names or not templates:
        raise ValueError(f"classes must have names and templates, but have {len(names)} and {len(templates)}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates must hold {{}} for the name of a class, but one is {template!r}")
    prompts: list[str] = []
    for name in names:
        prompts += [template.replace("{}", name) for template in templates]
    prompt_embeds = embedder.texts(prompts, kind).unflatten(0, (len(names), len(templates)))
    # Each prompt counts alike, as its embedding has length 1; their mean is shorter, so it is normalised again.
    return normalize(prompt_embeds.mean(dim=1), dim=-1)


def classification_probes(
    embedder: Embedder, texts: Sequence[Row], classes: Classes, *, seed: int = 0
) -> list["ClassificationProbe"]:
    """
    Makes the probes of classification that rows have labels for.

    They are `classes` for images that have a `label`, and `boxes` for `regions` that have one. If the classes have
    several templates, boxes are also measured by "a photo of a {}.", as `boxes[plain]`: papers do both.

    Args:
        embedder: Encodes the prompts.
        texts: Rows without their images.
        classes: What the labels are indices of.
        seed: Seed of the bootstrap intervals.
    """
    # Images and regions without a label are left out, so the numbers of labels differ from image to image.
    image_labels: list[list[int]] = []
    box_labels: list[list[int]] = []
    boxes: list[list[Any]] = []
    for row in texts:
        image_labels.append([])
        if "label" in row:
            image_labels[-1].append(row["label"])
        regions = [region for region in row.get("regions") or () if "label" in region]
        box_labels.append([region["label"] for region in regions])
        boxes.append([region["box"] for region in regions])
    probes = []
    if any(image_labels):
        probes.append(ClassificationProbe("classes", embedder, image_labels, classes, seed=seed))
    if any(boxes):
        prompt_sets = {"": classes}
        if len(classes.templates) > 1:
            prompt_sets[PLAIN] = classes._replace(templates=PLAIN_TEMPLATES)
        for subset, prompts in prompt_sets.items():
            probe = ClassificationProbe("boxes", embedder, box_labels, prompts, boxes=boxes, subset=subset, seed=seed)
            probes.append(probe)
    return probes


class ClassificationProbe:
    """
    Measures how often the right class is the first, and among the first five, of all classes by cosine.

    The scores are `cls`, the cosine with the whole image, and, for boxes, `region`, the cosine with the feature of the
    region, if the model has patch features. Ties count as their expected value; a box of which nothing is seen ties all
    classes. The mean is over all images or boxes, not over classes.

    Args:
        name: First part of the names of the metrics.
        embedder: Encodes the prompts.
        labels: Labels of each image: none or one, or one for each box.
        classes: What the labels are indices of.
        boxes: For each image the boxes that its labels belong to, in the `box_format` of its row.
        subset: Subset in the names of the metrics.
        seed: Seed of the bootstrap intervals.

    Raises:
        ValueError: if a label is not the index of a class, and as [`class_embeds`].
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        labels: Sequence[Sequence[int]],
        classes: Classes,
        *,
        boxes: Sequence[Sequence[Sequence[float]]] | None = None,
        subset: str = "",
        seed: int = 0,
    ) -> None:
        self.name = name
        self.subset = subset
        self.embedder = embedder
        self.seed = seed
        self.labels = labels
        self.boxes = boxes
        self.num_classes = len(classes.names)
        for label in chain.from_iterable(labels):
            if not (isinstance(label, int) and 0 <= label < self.num_classes):
                raise ValueError(f"label must be a whole number from 0 to {self.num_classes - 1}, but is {label!r}")
        # A matrix product would not tie copies of a class to the last bit, so each name is scored once.
        names = list(dict.fromkeys(classes.names))
        kind = SHORT_CAPTION if boxes is None else REGION_TEXT
        self.class_embeds_UD = class_embeds(embedder, classes._replace(names=names), kind)
        places = [names.index(class_name) for class_name in classes.names]
        self.place_G = torch.tensor(places, device=self.class_embeds_UD.device)

    def measure(self, batch: ImageBatch) -> Kept:
        """Keeps the ranks of the right classes of the images, or boxes, of a batch."""
        images = batch.image_index_B.tolist()
        labels: list[int] = []
        for image in images:
            labels += self.labels[image]
        labels_I = torch.tensor(labels, dtype=torch.int64)
        num_labels_B = torch.tensor([len(self.labels[image]) for image in images])
        device = batch.image_embeds_BD.device
        embeds = {"cls": batch.image_embeds_BD.repeat_interleave(num_labels_B.to(device), dim=0)}
        if self.boxes is not None and self.embedder.has_patch_features:
            embeds["region"] = self.embedder.region_embeds(batch, [self.boxes[image] for image in images])
        kept: Kept = {"image": batch.image_index_B.repeat_interleave(num_labels_B)}
        for score, embeds_ID in embeds.items():
            scores_IG = (embeds_ID @ self.class_embeds_UD.T)[:, self.place_G]
            # Ranks instead of scores: three numbers per image, where ImageNet has 1,000 scores.
            ranks = match_ranks(scores_IG.cpu(), labels_I)
            for field, values_I in ranks._asdict().items():
                kept[_key(score, field)] = values_I
        return kept

    def counts(self, kept: Kept) -> dict[str, int]:
        """Returns the number of labelled images or boxes, and of classes."""
        labelled = "labelled_boxes"
        if self.boxes is None:
            labelled = "labelled_images"
        return {labelled: len(kept["image"]), "classes": self.num_classes}

    def metrics(self, kept: Kept) -> list[Metric]:
        """Returns top-1 and top-5 accuracy by each score."""
        chance = chance_ranks(self.num_classes, torch.ones(1, dtype=torch.int64))
        metrics = []
        for score in SCORES:
            if _key(score, MatchRanks._fields[0]) not in kept:
                continue
            ranks = MatchRanks(*(kept[_key(score, field)] for field in MatchRanks._fields))
            for k in KS:
                metric = mean_metric(
                    MetricName(self.name, score, f"top{k}", subset=self.subset),
                    hits_at_k(ranks, k),
                    chance=float(hits_at_k(chance, k)),
                    cluster_index_I=kept["image"],
                    seed=self.seed,
                )
                metrics.append(metric)
        return metrics


def _key(score: str, field: str) -> str:
    """Returns the name under which a field of the ranks by a score is kept."""
    return f"{score}/{field}"
