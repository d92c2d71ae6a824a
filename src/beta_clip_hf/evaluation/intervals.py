"""Computes bootstrap intervals of means."""

import torch
from torch import Tensor


# Numbers drawn at a time, so that the resamples of many clusters need little memory.
DRAWN_AT_A_TIME = 2**20


def bootstrap_interval(
    values_I: Tensor,
    cluster_index_I: Tensor | None = None,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Computes the percentile bootstrap interval of a mean.

    With clusters, whole clusters are resampled: texts of one image are not independent, and an interval that ignores
    this is too narrow.

    Args:
        values_I: (I,) one value per query or phrase.
        cluster_index_I: (I,) int64, for example the image of each text; `None` makes every value a cluster of its own.
        num_resamples: Number of resamples.
        confidence: Share of the resampled means that lie in the interval.
        seed: Seed of the draws.

    Returns:
        The lower and the upper end. The interval is a point if all values are equal or there is only one cluster.

    Raises:
        ValueError: if there is no value, a value is not finite, or the shapes differ.
    """
    if len(values_I) == 0:
        raise ValueError("the number of values must be at least 1, but is 0")
    if not values_I.isfinite().all():
        raise ValueError("values must be finite, but at least one is not")
    if cluster_index_I is None:
        cluster_index_I = torch.arange(len(values_I))
    if cluster_index_I.shape != values_I.shape:
        shapes = f"{tuple(values_I.shape)}, {tuple(cluster_index_I.shape)}"
        raise ValueError(f"values and cluster_index must both have the shape (values,), but have {shapes}")
    _, cluster_I = cluster_index_I.cpu().unique(return_inverse=True)
    num_clusters = int(cluster_I.max()) + 1
    # The mean of a resample needs only the sum and the number of the values of each cluster.
    zeros = torch.zeros(num_clusters, dtype=torch.float64)
    cluster_sums = zeros.index_add(0, cluster_I, values_I.cpu().double())
    cluster_sizes = zeros.index_add(0, cluster_I, torch.ones(len(cluster_I), dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    means = []
    for resamples in torch.arange(num_resamples).split(max(1, DRAWN_AT_A_TIME // num_clusters)):
        drawn = torch.randint(num_clusters, (len(resamples), num_clusters), generator=generator)
        means.append(cluster_sums[drawn].sum(dim=1) / cluster_sizes[drawn].sum(dim=1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
