"""Computes bootstrap intervals of means."""

import torch
from torch import Tensor


# Numbers drawn at a time, so that the resamples of many clusters need little memory.
DRAWN_AT_A_TIME = 2**20
NUM_RESAMPLES = 1000
# Share of the resampled means that lie in the interval.
CONFIDENCE = 0.95


def bootstrap_interval(
    values_I: Tensor, cluster_index_I: Tensor | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """
    Computes the percentile bootstrap interval of a mean: 95 % of 1,000 resampled means lie in it.

    With clusters, whole clusters are resampled: texts of one image are not independent, and an interval that ignores
    this is too narrow.

    Args:
        values_I: (I,) one value per query or phrase.
        cluster_index_I: (I,) int64, for example the image of each text; `None` makes every value a cluster of its own.
        seed: Seed of the draws.

    Returns:
        The lower and the upper end. The interval is a point if all values are equal or there is only one cluster.

    Raises:
        ValueError: if there is no value, a value is not finite, or the shapes differ.
    """
    (interval,) = bootstrap_intervals(values_I[None], cluster_index_I, seed=seed)
    return interval


def bootstrap_intervals(
    values_NI: Tensor, cluster_index_I: Tensor | None = None, *, seed: int = 0
) -> list[tuple[float, float]]:
    """
    Computes the intervals of N means over the same items, such as R@1 and R@5, from the same resamples.

    Args:
        values_NI: (N, I) the values of each mean.
        cluster_index_I, seed: As for [`bootstrap_interval`].

    Returns:
        N times what [`bootstrap_interval`] returns.

    Raises:
        ValueError: if there is no value, a value is not finite, or the shapes differ.
    """
    num_values = values_NI.shape[1]
    if num_values == 0:
        raise ValueError("the number of values must be at least 1, but is 0")
    if not values_NI.isfinite().all():
        raise ValueError("values must be finite, but at least one is not")
    if cluster_index_I is None:
        cluster_index_I = torch.arange(num_values)
    if cluster_index_I.shape != values_NI.shape[1:]:
        shapes = f"{tuple(values_NI.shape[1:])}, {tuple(cluster_index_I.shape)}"
        raise ValueError(f"values and cluster_index must both have the shape (values,), but have {shapes}")
    _, cluster_I = cluster_index_I.cpu().unique(return_inverse=True)
    num_clusters = int(cluster_I.max()) + 1
    # The mean of a resample needs only the sum and the number of the values of each cluster.
    values_and_ones = torch.cat([values_NI.cpu().double(), torch.ones(1, num_values, dtype=torch.float64)])
    zeros = torch.zeros(len(values_and_ones), num_clusters, dtype=torch.float64)
    sums_and_sizes = zeros.index_add(1, cluster_I, values_and_ones)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for resamples in torch.arange(NUM_RESAMPLES).split(max(1, DRAWN_AT_A_TIME // num_clusters)):
        drawn = torch.randint(num_clusters, (len(resamples), num_clusters), generator=generator)
        # How often each cluster is drawn: a product with it sums all values at once.
        drawn += num_clusters * torch.arange(len(resamples))[:, None]
        times = torch.bincount(drawn.flatten(), minlength=drawn.numel()).view(drawn.shape).double()
        totals = sums_and_sizes @ times.T
        means.append(totals[:-1] / totals[-1])
    tail = (1 - CONFIDENCE) / 2
    ends = torch.cat(means, dim=1).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=1)
    lows, highs = ends.tolist()
    return list(zip(lows, highs, strict=True))
