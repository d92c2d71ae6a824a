"""Pictures of a row of data that brings phrases or regions with their boxes, such as a generated scene."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..inference.look import Look, look
from .attention import plot_phrase_attention
from .regions import plot_region_choices


SCORES = ("cls", "conditioned", "region")
"""By which score [`draw_region_choices`] may choose."""


def noun_phrases(row: Mapping[str, Any]) -> list[str]:
    """Returns the phrases of a row that name one kind of object, in the order of the caption."""
    return [phrase["text"] for phrase in row["phrases"] if phrase["kind"] == "noun"]


def draw_phrases(
    model: Any,
    processor: Any,
    row: Mapping[str, Any],
    path: str | os.PathLike[str],
    phrases: Sequence[str] | None = None,
) -> Path:
    """
    Draws where phrases of a row look, with the boxes of what they name.

    Args:
        model: A model with a pooler.
        processor: Its processor.
        row: A row with an `image` and `phrases` that have boxes in pixels.
        path: PNG to write.
        phrases: Texts of phrases of the row; by default its first seven noun phrases.

    Returns:
        `path`.

    Raises:
        ValueError: if the model has no pooler, or the row has no such phrase.
        ImportError: if matplotlib is not installed.
    """
    texts = list(noun_phrases(row)[:7] if phrases is None else phrases)
    boxes_of = {phrase["text"]: phrase["boxes"] for phrase in row["phrases"]}
    missing = [text for text in texts if text not in boxes_of]
    if missing:
        raise ValueError(f"phrases must be phrases of the row, {sorted(boxes_of)}, but are {missing}")
    counts = [len(boxes_of[text]) for text in texts]
    all_boxes: list[Sequence[float]] = []
    for text in texts:
        all_boxes += boxes_of[text]
    # The view of the model may be a part of the image: `look` returns the boxes in that part.
    seen = look(model, processor, row["image"], texts, boxes=all_boxes)
    return plot_phrase_attention(seen.view, texts, seen.maps(), path, seen.boxes_R4.split(counts))


def draw_region_choices(
    model: Any,
    processor: Any,
    row: Mapping[str, Any],
    path: str | os.PathLike[str],
    score: str = "region",
) -> Path:
    """
    Draws which text a model chooses for each region of a row, among the true one and its hard negatives.

    Args:
        model: Any model with region features; for the score "conditioned", one with a pooler.
        processor: Its processor.
        row: A row with an `image` and `regions` that have a `box` in pixels, a `text` and `negatives`.
        path: PNG to write.
        score: What the texts are compared with: "region", the feature of the region; "conditioned", the image as the
            text sees it; or "cls", the image embedding.

    Returns:
        `path`.

    Raises:
        ValueError: if the score is unknown, the model does not have it, or the row has no regions.
        ImportError: if matplotlib is not installed.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {SCORES}, but is {score!r}")
    if not row.get("regions"):
        raise ValueError("row must have regions to choose texts for, but has none")
    texts: list[list[str]] = []
    boxes_14: list[Tensor] = []
    probabilities: list[Tensor] = []
    for region in row["regions"]:
        region_texts = [region["text"], *region["negatives"]]
        seen = look(model, processor, row["image"], region_texts, boxes=[region["box"]])
        texts.append(region_texts)
        boxes_14.append(seen.boxes_R4)
        probabilities.append(_probabilities(model, seen, score))
    return plot_region_choices(seen.view, torch.cat(boxes_14), texts, probabilities, path)


def _probabilities(model: Any, seen: Look, score: str) -> Tensor:
    """Returns the (T,) probabilities of the texts for one region, with the scale that the score was trained with."""
    # A model that was not trained with regions has no scale of hard negatives; CLIP's takes its place.
    logit_scale: Any = model.logit_scale
    scores_T = seen.similarity_T
    if score == "region":
        logit_scale = getattr(model, "hard_negative_logit_scale", logit_scale)
        scores_T = seen.region_scores_RT[0]
    elif score == "conditioned":
        if seen.conditioned_T is None or model.pooler is None:
            raise ValueError("score must be 'cls' or 'region' for a model without a pooler, but is 'conditioned'")
        logit_scale = model.pooler.logit_scale
        scores_T = seen.conditioned_T
    return (logit_scale.detach().float().cpu().exp() * scores_T).softmax(dim=0)
