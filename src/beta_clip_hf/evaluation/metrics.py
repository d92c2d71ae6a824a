"""
Metrics of retrieval and of hard negatives as pure functions on tensors.

Tied scores are never resolved by the order of the data: each metric is its expected value when tied items are put in a
random order. A tie for the best of n candidates counts 1/n, and a model that scores everything alike is at chance.

M in names of tensors is the number of pairs of a query and a relevant candidate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .scores import EVERYTHING, ScoreFunction, check_no_nan


DEFAULT_KS = (1, 5, 10)
# By type of device: 4 MiB in float32, which fit the caches of a CPU, or 256 MiB, in which a GPU has much to do at once.
SCORES_AT_A_TIME = {"cpu": 2**20, "other": 2**26}
# Integers up to this one are exact in float32.
LARGEST_EXACT_FLOAT32 = 2**24


class MatchRanks(NamedTuple):
    """
    Holds the rank of the best relevant candidate of each query. Recall and ranks need no more of a score matrix.

    Parts of a matrix may be ranked one after the other and concatenated.
    """

    ahead_Q: Tensor
    """(Q,) int64: number of candidates with a higher score than the best relevant one."""
    tied_Q: Tensor
    """(Q,) int64: number of candidates with exactly its score, itself included."""
    tied_relevant_Q: Tensor
    """(Q,) int64: number of relevant candidates among the tied ones."""

    def to(self, device: torch.device | str) -> "MatchRanks":
        """Returns the ranks on a device."""
        return MatchRanks(*(counts_Q.to(device) for counts_Q in self))


def concatenate_ranks(parts: Sequence[MatchRanks]) -> MatchRanks:
    """Returns the ranks of the queries of all parts, one part after the other."""
    return MatchRanks(
        ahead_Q=torch.cat([part.ahead_Q for part in parts]),
        tied_Q=torch.cat([part.tied_Q for part in parts]),
        tied_relevant_Q=torch.cat([part.tied_relevant_Q for part in parts]),
    )


def choose_ranks(condition_Q: Tensor, ranks: MatchRanks, other_ranks: MatchRanks) -> MatchRanks:
    """Returns `ranks` of the queries for which the condition holds, and `other_ranks` of all others."""
    return MatchRanks(
        ahead_Q=torch.where(condition_Q, ranks.ahead_Q, other_ranks.ahead_Q),
        tied_Q=torch.where(condition_Q, ranks.tied_Q, other_ranks.tied_Q),
        tied_relevant_Q=torch.where(condition_Q, ranks.tied_relevant_Q, other_ranks.tied_relevant_Q),
    )


def match_ranks(scores_QG: Tensor, relevant: Tensor) -> MatchRanks:
    """
    Ranks the best relevant candidate of each query.

    Args:
        scores_QG: (Q, G), scores of the queries with all candidates; higher is better.
        relevant: (Q, G) bool, or (Q,) int64 if each query has one relevant candidate: the index of it.

    Raises:
        ValueError: if a score is NaN, the shapes do not fit, or a query has no relevant candidate.
    """
    if scores_QG.ndim != 2:
        raise ValueError(f"scores must be (queries, candidates), but is {tuple(scores_QG.shape)}")
    check_no_nan(scores_QG)
    if relevant.dtype == torch.bool:
        if relevant.shape != scores_QG.shape:
            raise ValueError(f"relevant must be {tuple(scores_QG.shape)} like scores, but is {tuple(relevant.shape)}")
        has_relevant_Q = relevant.any(dim=1)
        if not has_relevant_Q.all():
            query = int((~has_relevant_Q).nonzero()[0])
            raise ValueError(f"every query must have a relevant candidate, but query {query} has none")
        query_M, candidate_M = relevant.nonzero(as_tuple=True)
        return _ranks_of_pairs(scores_QG, query_M, candidate_M)
    if relevant.shape != scores_QG.shape[:1]:
        raise ValueError(f"relevant must be ({len(scores_QG)},), an index each, but is {tuple(relevant.shape)}")
    _check_indices(relevant, scores_QG.shape[1], "relevant")
    return _ranks_of_pairs(scores_QG, torch.arange(len(relevant), device=relevant.device), relevant)


class RetrievalRanks(NamedTuple):
    """Ranks of retrieval in both directions. From image to text, all texts of an image are relevant for it."""

    image_to_text: MatchRanks
    """Ranks of B queries among T candidates."""
    text_to_image: MatchRanks
    """Ranks of T queries among B candidates."""


def retrieval_ranks(
    score: ScoreFunction, image_index_T: Tensor, num_images: int, *, scores_at_a_time: int | None = None
) -> RetrievalRanks:
    """
    Ranks retrieval in both directions without the whole score matrix.

    `score` is asked for some images with all texts, then for all images with some texts, and never for more than
    `scores_at_a_time` numbers (or one row). A score that is computed twice need not be the same twice: each rank
    compares numbers of one and the same piece.

    Args:
        score: Scores of images with texts. [`embedding_scores`] makes such a function; for a (B, T) tensor it is
            `lambda images, texts: scores_BT[images, texts]`.
        image_index_T: (T,) int64, the image that each text belongs to, in any order; several texts may have the same.
        num_images: Number of images, B.
        scores_at_a_time: Number of scores to hold at once; about twice that is in memory. By default what suits the
            device, see [`scores_that_suit`].

    Returns:
        Ranks on the device of `image_index_T`.

    Raises:
        ValueError: if a score is NaN, an index is not below B, there are no texts, or an image has none.
    """
    _check_not_empty(image_index_T, "texts")
    _check_indices(image_index_T, num_images, "image_index")
    num_texts_B = torch.bincount(image_index_T, minlength=num_images)
    if not num_texts_B.all():
        image = int((num_texts_B == 0).nonzero()[0])
        raise ValueError(f"every image must have a text, but image {image} has none")
    if scores_at_a_time is None:
        scores_at_a_time = scores_that_suit(score)
    image_parts = []
    for images in row_slices(num_images, len(image_index_T), scores_at_a_time):
        scores = check_no_nan(score(images, EVERYTHING))
        is_of_images_T = (image_index_T >= images.start) & (image_index_T < images.stop)
        text_M = is_of_images_T.nonzero()[:, 0]
        image_parts.append(_ranks_of_pairs(scores, image_index_T[text_M] - images.start, text_M))
    text_parts = []
    for texts in row_slices(len(image_index_T), num_images, scores_at_a_time):
        scores = check_no_nan(score(EVERYTHING, texts))
        image_M = image_index_T[texts]
        query_M = torch.arange(len(image_M), device=image_M.device)
        text_parts.append(_ranks_of_pairs(scores.T, query_M, image_M))
    return RetrievalRanks(concatenate_ranks(image_parts), concatenate_ranks(text_parts))


def scores_that_suit(score: ScoreFunction) -> int:
    """Returns how many scores are held at once on the device on which they are computed."""
    device = score(slice(0, 1), slice(0, 1)).device
    return SCORES_AT_A_TIME.get(device.type, SCORES_AT_A_TIME["other"])


def row_slices(num_rows: int, num_columns: int, scores_at_a_time: int) -> list[slice]:
    """Cuts the rows of a score matrix into slices of at most `scores_at_a_time` numbers, and at least one row."""
    size = max(1, scores_at_a_time // num_columns)
    return [slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]


def chance_ranks(num_candidates: int, num_relevant_Q: Tensor) -> MatchRanks:
    """
    Returns the ranks under a constant score: all candidates are tied. Metrics of these ranks are the chance level.

    Args:
        num_candidates: Number of candidates of each query.
        num_relevant_Q: (Q,) int64, the number of relevant candidates of each query.
    """
    return MatchRanks(torch.zeros_like(num_relevant_Q), torch.full_like(num_relevant_Q, num_candidates), num_relevant_Q)


def hits_at_k(ranks: MatchRanks, k: int) -> Tensor:
    """
    Computes the probability that a relevant candidate is among the first k, with tied candidates in random order.

    With g candidates ahead and r relevant ones among n tied, k - g places are drawn without replacement from the n:
    the miss is hypergeometric, C(n - r, k - g) / C(n, k - g).

    Args:
        ranks: Ranks of Q queries.
        k: Number of first places.

    Returns:
        (Q,) float64.

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, but is {k}")
    places_Q = (k - ranks.ahead_Q).clamp(min=0)
    irrelevant_Q = ranks.tied_Q - ranks.tied_relevant_Q
    most_tied = 0
    if len(ranks.tied_Q):
        most_tied = int(ranks.tied_Q.max())
    miss_Q = torch.ones_like(places_Q, dtype=torch.float64)
    # One place after the other: binomials of many tied candidates would overflow.
    for drawn in range(min(k, most_tied)):
        miss_next_Q = (irrelevant_Q - drawn).clamp(min=0) / (ranks.tied_Q - drawn).clamp(min=1).double()
        miss_Q = torch.where(drawn < places_Q, miss_Q * miss_next_Q, miss_Q)
    return 1 - miss_Q


def expected_ranks(ranks: MatchRanks) -> Tensor:
    """
    Computes the expected rank (1 is the best) of the first relevant candidate, with tied candidates in random order.

    Returns:
        (Q,) float64.
    """
    return ranks.ahead_Q + (ranks.tied_Q + 1) / (ranks.tied_relevant_Q + 1).double()


def recall_at_k(scores_QG: Tensor, relevant: Tensor, ks: Sequence[int] = DEFAULT_KS) -> dict[int, float]:
    """
    Computes recall at k: the share of queries that have a relevant candidate among the first k. If a query has several
    relevant candidates (five captions of an image), any of them is a hit.

    Args:
        scores_QG: (Q, G), higher is better.
        relevant: (Q, G) bool, or (Q,) int64, the index of the one relevant candidate of each query.
        ks: Values of k; one above G is always a hit.

    Raises:
        ValueError: if a score is NaN, there is no query, or a query has no relevant candidate.

    Example:

    ```python
    >>> recall_at_k(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]), ks=(1,))
    {1: 0.75}

    ```
    """
    ranks = match_ranks(scores_QG, relevant)
    _check_not_empty(ranks.ahead_Q, "queries")
    return {k: float(hits_at_k(ranks, k).mean()) for k in ks}


def median_rank(scores_QG: Tensor, relevant: Tensor) -> float:
    """Computes the median over the queries of [`expected_ranks`]. Arguments and errors are those of [`recall_at_k`]."""
    ranks_Q = expected_ranks(match_ranks(scores_QG, relevant))
    _check_not_empty(ranks_Q, "queries")
    return float(ranks_Q.quantile(0.5))


def hard_negative_hits(scores_N: Tensor, group_index_N: Tensor) -> Tensor:
    """
    Computes for each group of texts whether the true text scores best. If n texts are tied for the best, it counts 1/n.

    Args:
        scores_N: (N,) scores of all groups; in each of them the true text comes first, then its negatives (any number).
        group_index_N: (N,) int64, non-decreasing.

    Returns:
        (I,) float64, one value per group.

    Raises:
        ValueError: if a score is NaN, an index decreases, or a group has no negative.
    """
    if scores_N.shape != group_index_N.shape or scores_N.ndim != 1:
        raise ValueError(
            "scores and group_index must both have the shape (texts,), but have "
            f"{tuple(scores_N.shape)}, {tuple(group_index_N.shape)}"
        )
    check_no_nan(scores_N)
    if (group_index_N.diff() < 0).any():
        raise ValueError(f"group_index must be non-decreasing, but is {group_index_N.tolist()}")
    _, group_N, sizes_I = group_index_N.unique_consecutive(return_inverse=True, return_counts=True)
    if (sizes_I < 2).any():
        group = int(group_index_N[(sizes_I[group_N] < 2).nonzero()[0]])
        raise ValueError(f"every group must have at least one negative, but group {group} has none")
    first_text_I = sizes_I.cumsum(0) - sizes_I
    true_N = scores_N[first_text_I][group_N]
    zeros_I = torch.zeros_like(sizes_I)
    ahead_I = zeros_I.index_add(0, group_N, (scores_N > true_N).long())
    tied_I = zeros_I.index_add(0, group_N, (scores_N == true_N).long())
    return torch.where(ahead_I == 0, 1 / tied_I.double(), 0.0)


def hard_negative_accuracy(scores: Tensor, group_index_N: Tensor | None = None) -> float:
    """
    Computes the accuracy of choosing the true text among its negatives, as in FG-OVD, SugarCrepe or VALSE, but with
    ties as 1/n.

    Args:
        scores: (groups, texts) with the true text in column 0; or (N,), ragged, together with `group_index_N`.
        group_index_N: (N,) int64, the group of each text, see [`hard_negative_hits`].

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
    hits_I = hard_negative_hits(scores, group_index_N)
    _check_not_empty(hits_I, "groups")
    return float(hits_I.mean())


def _ranks_of_pairs(scores_QG: Tensor, query_M: Tensor, candidate_M: Tensor) -> MatchRanks:
    """Ranks the best relevant candidates. Every query is in at least one of the M pairs, and no score is NaN."""
    if scores_QG.shape[1] >= LARGEST_EXACT_FLOAT32:
        raise ValueError(
            f"candidates must be fewer than {LARGEST_EXACT_FLOAT32} in number, but are {scores_QG.shape[1]}"
        )
    device = query_M.device
    scores_QG = scores_QG.detach()
    if not scores_QG.is_floating_point():
        # Integers have no infinity.
        scores_QG = scores_QG.double()
    query_M = query_M.to(scores_QG.device)
    candidate_M = candidate_M.to(scores_QG.device)
    relevant_M = scores_QG[query_M, candidate_M]
    lowest_Q = scores_QG.new_full((len(scores_QG),), -torch.inf)
    best_Q = lowest_Q.scatter_reduce(0, query_M, relevant_M, "amax")
    is_best_M = relevant_M == best_Q[query_M]
    tied_relevant_Q = torch.bincount(query_M[is_best_M], minlength=len(best_Q))
    # Ones in float32 are added up many times faster than booleans, and exactly, as there are not too many.
    ones_QG = torch.empty_like(scores_QG, dtype=torch.float32)
    ahead_Q = torch.gt(scores_QG, best_Q[:, None], out=ones_QG).sum(dim=1).long()
    tied_Q = torch.eq(scores_QG, best_Q[:, None], out=ones_QG).sum(dim=1).long()
    return MatchRanks(ahead_Q.to(device), tied_Q.to(device), tied_relevant_Q.to(device))


def _check_indices(indices: Tensor, end: int, name: str) -> None:
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < end:
        raise ValueError(f"{name} must be indices below {end}, but is {int(indices.min())} … {int(indices.max())}")


def _check_not_empty(values: Tensor, name: str) -> None:
    if len(values) == 0:
        raise ValueError(f"the number of {name} must be at least 1, but is 0")
