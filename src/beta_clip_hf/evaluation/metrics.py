"""
Metrics as pure functions on tensors: retrieval, hard negatives, and the intervals of all figures.

Letters: Q queries, C candidates, N texts, G groups of a true text with its negatives.

Tied scores are never resolved by the order of the data: each figure is its expected value when tied items are put in
a random order. A tie for the best of n candidates counts 1/n, and a model that scores everything alike is at chance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


DEFAULT_KS = (1, 5, 10)
DRAWN_AT_A_TIME = 2**20  # bootstrap draws in memory


class MatchRanks(NamedTuple):
    """
    Where the best relevant candidate of each query stands; all that recall and ranks need of a score matrix. Parts of
    a matrix may be ranked one after the other and concatenated.
    """

    ahead_Q: Tensor
    """(Q,) int64: candidates with a higher score than the best relevant one."""
    tied_Q: Tensor
    """(Q,) int64: candidates with exactly its score, itself included."""
    tied_relevant_Q: Tensor
    """(Q,) int64: how many of the tied ones are relevant."""


def match_ranks(scores_QC: Tensor, relevant: Tensor) -> MatchRanks:
    """
    Rank the best relevant candidate of each query.

    Args:
        scores_QC: (Q, C), higher is better.
        relevant: (Q, C) bool, or (Q,) int64 where each query has one relevant candidate: its index.

    Raises:
        ValueError: on a NaN score, a shape that does not fit, or a query without a relevant candidate.
    """
    if scores_QC.ndim != 2:
        raise ValueError(f"scores must be (queries, candidates), but is {tuple(scores_QC.shape)}")
    if scores_QC.isnan().any():
        raise ValueError("scores must not be NaN, but at least one is")
    if relevant.dtype == torch.bool:
        if relevant.shape != scores_QC.shape:
            raise ValueError(f"relevant must be {tuple(scores_QC.shape)} like scores, but is {tuple(relevant.shape)}")
        if not relevant.any(dim=1).all():
            query = int((~relevant.any(dim=1)).nonzero()[0])
            raise ValueError(f"every query must have a relevant candidate, but query {query} has none")
        best_Q1 = scores_QC.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
        tied_relevant_Q = ((scores_QC == best_Q1) & relevant).sum(dim=1)
    else:
        if relevant.shape != scores_QC.shape[:1]:
            raise ValueError(f"relevant must be ({len(scores_QC)},), an index each, but is {tuple(relevant.shape)}")
        if ((relevant < 0) | (relevant >= scores_QC.shape[1])).any():
            raise ValueError(f"relevant must be indices below {scores_QC.shape[1]}, but is {relevant.tolist()}")
        best_Q1 = scores_QC.gather(1, relevant[:, None])
        tied_relevant_Q = torch.ones_like(relevant)
    return MatchRanks((scores_QC > best_Q1).sum(dim=1), (scores_QC == best_Q1).sum(dim=1), tied_relevant_Q)


def chance_ranks(num_candidates: int, num_relevant_Q: Tensor) -> MatchRanks:
    """
    The ranks under a score that is constant: all candidates tied. Every figure computed of them is the chance level.

    Args:
        num_candidates: C.
        num_relevant_Q: (Q,) int64, how many of the candidates are relevant for each query.
    """
    return MatchRanks(torch.zeros_like(num_relevant_Q), torch.full_like(num_relevant_Q, num_candidates), num_relevant_Q)


def hits_at_k(ranks: MatchRanks, k: int) -> Tensor:
    """
    (Q,) float64: the probability that a relevant candidate is among the first k, tied ones in random order.

    With g candidates ahead and r relevant ones among n tied, k - g places are drawn without replacement from the n:
    the miss is hypergeometric, C(n - r, k - g) / C(n, k - g).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, but is {k}")
    places_Q = (k - ranks.ahead_Q).clamp(min=0)
    irrelevant_Q = ranks.tied_Q - ranks.tied_relevant_Q
    miss_Q = torch.ones_like(places_Q, dtype=torch.float64)
    for drawn in range(min(k, int(ranks.tied_Q.max()) if len(ranks.tied_Q) else 0)):
        miss_next_Q = (irrelevant_Q - drawn).clamp(min=0) / (ranks.tied_Q - drawn).clamp(min=1).double()
        miss_Q = torch.where(drawn < places_Q, miss_Q * miss_next_Q, miss_Q)
    return 1 - miss_Q


def expected_ranks(ranks: MatchRanks) -> Tensor:
    """(Q,) float64: expected rank (1 is the best) of the first relevant candidate, tied ones in random order."""
    return ranks.ahead_Q + (ranks.tied_Q + 1) / (ranks.tied_relevant_Q + 1).double()


def recall_at_k(scores_QC: Tensor, relevant: Tensor, ks: Sequence[int] = DEFAULT_KS) -> dict[int, float]:
    """
    Recall at k: the share of queries with a relevant candidate among the first k. Where a query has several relevant
    candidates (five captions of an image), any of them is a hit.

    Args:
        scores_QC: (Q, C), higher is better.
        relevant: (Q, C) bool, or (Q,) int64, the index of each query's one relevant candidate.
        ks: the values of k; one above C is always a hit.

    Raises:
        ValueError: on NaN, no query at all, or a query without a relevant candidate.

    Example:

    ```python
    >>> recall_at_k(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]), ks=(1,))
    {1: 0.75}

    ```
    """
    ranks = match_ranks(scores_QC, relevant)
    _check_not_empty(ranks.ahead_Q, "queries")
    return {k: float(hits_at_k(ranks, k).mean()) for k in ks}


def median_rank(scores_QC: Tensor, relevant: Tensor) -> float:
    """Median over the queries of `expected_ranks`; arguments and errors as `recall_at_k`."""
    ranks_Q = expected_ranks(match_ranks(scores_QC, relevant))
    _check_not_empty(ranks_Q, "queries")
    return float(ranks_Q.quantile(0.5))


def hard_negative_hits(scores_N: Tensor, group_index_N: Tensor) -> Tensor:
    """
    (G,) float64: for each group of texts whether the true one scores best; among n tied for the best it counts 1/n.

    Args:
        scores_N: (N,) scores of all groups, in each the true text first, then its negatives (any number).
        group_index_N: (N,) int64, non-decreasing.

    Raises:
        ValueError: on NaN, an index that decreases, or a group without a negative.
    """
    if scores_N.shape != group_index_N.shape or scores_N.ndim != 1:
        raise ValueError(
            f"scores and group_index must both be (N,), but are {tuple(scores_N.shape)}, {tuple(group_index_N.shape)}"
        )
    if scores_N.isnan().any():
        raise ValueError("scores must not be NaN, but at least one is")
    if (group_index_N.diff() < 0).any():
        raise ValueError(f"group_index must be non-decreasing, but is {group_index_N.tolist()}")
    _, group_N, sizes_G = group_index_N.unique_consecutive(return_inverse=True, return_counts=True)
    if (sizes_G < 2).any():
        group = int(group_index_N[(sizes_G[group_N] < 2).nonzero()[0]])
        raise ValueError(f"every group must have at least one negative, but group {group} has none")
    true_N = scores_N[sizes_G.cumsum(0) - sizes_G][group_N]
    zeros_G = torch.zeros_like(sizes_G)
    ahead_G = zeros_G.index_add(0, group_N, (scores_N > true_N).long())
    tied_G = zeros_G.index_add(0, group_N, (scores_N == true_N).long())
    return torch.where(ahead_G == 0, 1 / tied_G.double(), 0.0)


def hard_negative_accuracy(scores: Tensor, group_index_N: Tensor | None = None) -> float:
    """
    Accuracy of choosing the true text among its negatives, as in FG-OVD, SugarCrepe or VALSE, but with ties as 1/n.

    Args:
        scores: (G, K) with the true text in column 0; or (N,), ragged, together with `group_index_N`.
        group_index_N: see [`hard_negative_hits`].

    Example:

    ```python
    >>> hard_negative_accuracy(torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.3, 0.1]]))
    0.75

    ```
    """
    if group_index_N is None:
        if scores.ndim != 2:
            raise ValueError(f"scores must be (groups, texts) where group_index is None, but is {tuple(scores.shape)}")
        group_index_N = torch.arange(len(scores), device=scores.device).repeat_interleave(scores.shape[1])
        scores = scores.flatten()
    hits_G = hard_negative_hits(scores, group_index_N)
    _check_not_empty(hits_G, "groups")
    return float(hits_G.mean())


def bootstrap_interval(
    values_N: Tensor,
    cluster_index_N: Tensor | None = None,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a mean. With clusters, whole clusters are resampled: texts of one image are not
    independent, and an interval that ignores this is too narrow.

    Args:
        values_N: (N,) one value per query or phrase.
        cluster_index_N: (N,) int64, for example each text's image; None: every value is a cluster of its own.

    Returns:
        The lower and the upper end. The interval is a point where all values agree or there is one cluster only.
    """
    _check_not_empty(values_N, "values")
    if cluster_index_N is None:
        cluster_index_N = torch.arange(len(values_N))
    _, cluster_N = cluster_index_N.cpu().unique(return_inverse=True)
    num_clusters = int(cluster_N.max()) + 1
    zeros_G = torch.zeros(num_clusters, dtype=torch.float64)
    sums_G = zeros_G.index_add(0, cluster_N, values_N.cpu().double())
    counts_G = zeros_G.index_add(0, cluster_N, torch.ones(len(cluster_N), dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    means = []
    for resamples in torch.arange(num_resamples).split(max(1, DRAWN_AT_A_TIME // num_clusters)):
        drawn_SG = torch.randint(num_clusters, (len(resamples), num_clusters), generator=generator)
        means.append(sums_G[drawn_SG].sum(dim=1) / counts_G[drawn_SG].sum(dim=1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _check_not_empty(values: Tensor, what: str) -> None:
    if len(values) == 0:
        raise ValueError(f"the number of {what} must be at least 1, but is 0")
