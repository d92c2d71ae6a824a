"""The ranks of retrieval by several scores, and their metrics."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fitted import FittedRanks, fitted_ranks
from .metric_names import MEDIAN_RANK, MetricName
from .metrics import MatchRanks, RetrievalRanks, expected_ranks, hits_at_k, retrieval_ranks
from .results import Metric, mean_metric
from .scores import ScoreFunction
from .shortlists import CandidateScores, Shortlists, reranked_both_ways


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
    tried = {}
    for weight in WEIGHTS:
        # lerp gives exactly `cls` for 0 and exactly `all_pairs` for 1.
        score = _mixed_score(cls_BT, pairs_BT, weight)
        tried[weight] = retrieval_ranks(score, image_index_T, len(cls_BT))
    return fitted_ranks(tried, image_index_T, len(cls_BT))


def rank_metrics(
    name: MetricName, ranks: MatchRanks, chance: MatchRanks, image_Q: Tensor, *, ks: Sequence[int], seed: int
) -> list[Metric]:
    """
    Returns R@k and median rank of one score in one direction.

    Args:
        name: Their name, without the metric.
        ranks: Ranks of Q queries.
        chance: Ranks of the same queries if all scores are alike.
        image_Q: (Q,) int64, the image of each query.
        ks: Values of k.
        seed: Seed of the bootstrap intervals.
    """
    metrics = []
    for k in ks:
        metric = mean_metric(
            replace(name, metric=f"R@{k}"),
            hits_at_k(ranks, k),
            chance=float(hits_at_k(chance, k).mean()),
            cluster_index_I=image_Q,
            seed=seed,
        )
        metrics.append(metric)
    # `quantile` takes the middle between two ranks, and `median` would take the lower one.
    median = Metric(
        replace(name, metric=MEDIAN_RANK),
        value=float(expected_ranks(ranks).quantile(0.5)),
        chance=float(expected_ranks(chance).quantile(0.5)),
        count=len(image_Q),
    )
    return [*metrics, median]


def _mixed_score(cls_BT: Tensor, pairs_BT: Tensor, weight: float) -> ScoreFunction:
    return lambda images, texts: torch.lerp(cls_BT[images, texts], pairs_BT[images, texts], weight)
