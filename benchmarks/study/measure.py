"""Measures a model on the test scenes, without a trace in the training that it interrupts."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beta_clip_hf.data.rows import Row
from beta_clip_hf.evaluation.evaluator import measure
from beta_clip_hf.evaluation.metric_names import MetricName
from beta_clip_hf.evaluation.results import Metric
from beta_clip_hf.inference.embedder import Embedder

from .records import packed, packed_counts, rounded


# 300 scenes have shortlists of 16, 64 and 256. The long ones are close to all pairs. The rest are baselines.
LEFT_OUT_SCORES = ("rerank@64", "rerank@256", "centre", "uniform", "best_possible")


@contextmanager
def paused(model: Any) -> Iterator[None]:
    """Puts a model into evaluation mode for a while, then restores its mode and all states of randomness."""
    was_training = model.training
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        model.train(was_training)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def measure_model(model: Any, processor: Any, rows: Sequence[Row], *, is_last: bool) -> list[Metric]:
    """
    Measures a model on rows, and returns the metrics that the study keeps.

    Args:
        model, processor: What is measured.
        rows: The test scenes.
        is_last: Whether this is the last point of a curve. Only there retrieval by sentences and phrases is measured,
            which costs as much as everything else.
    """
    with paused(model):
        measured = measure(Embedder(model, processor), rows, ks=(1,), hierarchical=is_last)
    return [metric for metric in measured.metrics if is_kept(metric.name)]


def is_kept(name: MetricName) -> bool:
    """Tells whether a metric is part of the study: no ranks, no single heads, no baselines, no long shortlists."""
    return not name.is_rank and name.head is None and name.score not in LEFT_OUT_SCORES


def has_values(name: MetricName) -> bool:
    """Tells whether the values of single items are kept, for paired intervals."""
    if name.probe != "phrases":
        # The answers are about text to image; the other direction is kept for the scores of all pairs.
        return name.direction != "image_to_text" or name.score in ("cls", "all_pairs", "sum")
    # The questions are about nouns. A relation has the box around both of its objects, which is hard to miss.
    if name.subset != "noun":
        return False
    return name.metric == "pointing" or (name.metric == "mass_inside" and name.score == "attention")


def numbers(metrics: Sequence[Metric]) -> dict[str, list[float | None]]:
    """Returns value, lower and upper end of the interval of each metric, by its name."""
    return {str(metric.name): [rounded(metric.value), rounded(metric.low), rounded(metric.high)] for metric in metrics}


def packed_values(metrics: Sequence[Metric]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """
    Packs the values of single items.

    Returns:
        For each metric, by its name, its `items`, one letter each, and the name of its `clusters`; and for each name
        of clusters the number of items of each image, one letter each. Items are in the order of the images.
    """
    values = {}
    names_of_clusters: dict[str, str] = {}
    for metric in metrics:
        if has_values(metric.name) and metric.values_I is not None and metric.cluster_index_I is not None:
            counts = packed_counts(_items_of_images(metric.cluster_index_I))
            label = names_of_clusters.setdefault(counts, str(len(names_of_clusters)))
            values[str(metric.name)] = {"clusters": label, "items": packed(metric.values_I.double())}
    return values, {label: counts for counts, label in names_of_clusters.items()}


def _items_of_images(image_I: Tensor) -> Tensor:
    """Returns the number of items of each image, up to the last image that has one."""
    if (image_I.diff() < 0).any():
        raise ValueError(f"items must be in the order of their images, but are of {image_I.tolist()}")
    return torch.bincount(image_I)
