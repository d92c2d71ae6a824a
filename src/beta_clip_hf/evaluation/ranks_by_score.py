"""The ranks of retrieval by several scores, and their metrics."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fitted import FittedRanks
from .metric_names import MEDIAN_RANK, MetricName
from .metrics import MatchRanks, RetrievalRanks, expected_ranks, hits_at_k
from .results import Metric, mean_metrics
from .shortlists import CandidateScores, Shortlists, reranked_both_ways
from .weighted import weighted_ranks


WEIGHTS = tuple(tenth / 10 for tenth in range(11))
"""Weights of the conditioned score in a sum."""


class RanksByScore(NamedTuple):
    """Holds the ranks of retrieval by each score, the first of which is `cls`."""

    by_score: dict[str, RetrievalRanks]
    weights: dict[str, dict[str, dict[str, Any]]]
    """By score, the weights that were chosen, see [`FittedRanks`]."""

    def add(self, score: str, ranks: RetrievalRanks) -> None:
        """Adds the ranks by a score without weights."""
        self.by_score[score] = ranks

    def add_fitted(self, score: str, fitted: FittedRanks) -> None:
        """Adds the ranks by a score whose weights were chosen."""
        self.by_score[score] = fitted.ranks
        self.weights[score] = fitted.weights

    def add_reranked(
        self, sizes: Sequence[int], shortlists: Shortlists, scores: CandidateScores, image_index_T: Tensor
    ) -> None:
        """Adds the ranks after re-ranking, for each size of shortlists that is smaller than the number of images."""
        for size in sizes:
            if size < len(shortlists.texts_BK):
                first = shortlists.first(size)
                first_scores = CandidateScores(scores.texts_BK[:, :size], scores.images_TK[:, :size])
                self.add(f"rerank@{size}", reranked_both_ways(self.by_score["cls"], first, first_scores, image_index_T))


def sum_ranks(cls_BT: Tensor, pairs_BT: Tensor, image_index_T: Tensor) -> FittedRanks:
    """
    Computes the ranks by the sum of two scores, its weight chosen for each half of the queries on the other.

    Args:
        cls_BT, pairs_BT: (B, T) the two scores.
        image_index_T: (T,) int64, the image of each text.
    """
    choices = {weight: (1 - weight, weight) for weight in WEIGHTS}
    return weighted_ranks((cls_BT, pairs_BT), choices, image_index_T)


def rank_metrics(
    names: Sequence[MetricName],
    ranks: Sequence[MatchRanks],
    chance: MatchRanks,
    image_Q: Tensor,
    *,
    ks: Sequence[int],
    seed: int,
) -> list[list[Metric]]:
    """
    Returns R@k and median rank of several scores in one direction.

    Args:
        names: For each score the name of its metrics, without the metric.
        ranks: For each score the ranks of Q queries.
        chance: Ranks of the same queries if all scores are alike.
        image_Q: (Q,) int64, the image of each query.
        ks: Values of k.
        seed: Seed of the bootstrap intervals.
    """
    recall_names = []
    hits = []
    for name, score_ranks in zip(names, ranks, strict=True):
        recall_names += [replace(name, metric=f"R@{k}") for k in ks]
        hits += [hits_at_k(score_ranks, k) for k in ks]
    chances = [float(hits_at_k(chance, k).mean()) for k in ks] * len(names)
    # One bootstrap for all scores and all k.
    recalls = mean_metrics(recall_names, torch.stack(hits), chances=chances, cluster_index_I=image_Q, seed=seed)
    chance_median = float(expected_ranks(chance).quantile(0.5))
    metrics = []
    for number, (name, score_ranks) in enumerate(zip(names, ranks, strict=True)):
        # `quantile` takes the middle between two ranks, and `median` would take the lower one.
        median = Metric(
            replace(name, metric=MEDIAN_RANK),
            value=float(expected_ranks(score_ranks).quantile(0.5)),
            chance=chance_median,
            count=len(image_Q),
        )
        metrics.append([*recalls[number * len(ks) : (number + 1) * len(ks)], median])
    return metrics
