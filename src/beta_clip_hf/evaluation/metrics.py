"""
Metrics as pure functions on tensors: retrieval, hard negatives, and the intervals of all figures.

Letters: Q queries, C candidates, B images, T texts, D projection width, R pairs of a query and a relevant candidate,
N texts of choices, G groups of a true text with its negatives.

Tied scores are never resolved by the order of the data: each figure is its expected value when tied items are put in
a random order. A tie for the best of n candidates counts 1/n, and a model that scores everything alike is at chance.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


DEFAULT_KS = (1, 5, 10)
SCORES_AT_A_TIME = 2**26  # 256 MiB in float32: 432 images against 155,070 texts
DRAWN_AT_A_TIME = 2**20  # bootstrap draws in memory

ScoreFunction = Callable[[slice, slice], Tensor]
"""score(images, texts) -> (b, t), the scores of a slice of the images with a slice of the texts; higher is better."""


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
    _check_no_nan(scores_QC)
    if relevant.dtype == torch.bool:
        if relevant.shape != scores_QC.shape:
            raise ValueError(f"relevant must be {tuple(scores_QC.shape)} like scores, but is {tuple(relevant.shape)}")
        if not relevant.any(dim=1).all():
            query = int((~relevant.any(dim=1)).nonzero()[0])
            raise ValueError(f"every query must have a relevant candidate, but query {query} has none")
        return _ranks_of_pairs(scores_QC, *relevant.nonzero(as_tuple=True))
    if relevant.shape != scores_QC.shape[:1]:
        raise ValueError(f"relevant must be ({len(scores_QC)},), an index each, but is {tuple(relevant.shape)}")
    _check_indices(relevant, scores_QC.shape[1], "relevant")
    return _ranks_of_pairs(scores_QC, torch.arange(len(relevant), device=relevant.device), relevant)


class RetrievalRanks(NamedTuple):
    """Retrieval both ways. On the way to texts an image has as many relevant candidates as it has texts."""

    image_to_text: MatchRanks
    """Of B queries among T candidates."""
    text_to_image: MatchRanks
    """Of T queries among B candidates."""


def retrieval_ranks(
    score: ScoreFunction, image_index_T: Tensor, num_images: int, *, scores_at_a_time: int = SCORES_AT_A_TIME
) -> RetrievalRanks:
    """
    The ranks of retrieval both ways without the whole score matrix: it is asked for some images with all texts, then
    for all images with some texts, and never for more than `scores_at_a_time` numbers (or one row). A number that
    comes twice need not be the same twice: each rank compares numbers of one and the same piece.

    Args:
        score: See [`ScoreFunction`]; [`embedding_scores`] makes one, and a (B, T) tensor is `scores_BT[images, texts]`.
        image_index_T: (T,) int64, the image that each text belongs to, in any order; several texts may have the same.
        num_images: B.
        scores_at_a_time: What is held at once; about twice that is in memory.

    Returns:
        Ranks on the device of `image_index_T`.

    Raises:
        ValueError: on a NaN score, an index that is not below B, no text at all, or an image without one.
    """
    _check_not_empty(image_index_T, "texts")
    _check_indices(image_index_T, num_images, "image_index")
    texts_of_B = torch.bincount(image_index_T, minlength=num_images)
    if not texts_of_B.all():
        raise ValueError(f"every image must have a text, but image {int((texts_of_B == 0).nonzero()[0])} has none")
    everything = slice(None)
    of_images, of_texts = [], []
    for part in parts_of(num_images, len(image_index_T), scores_at_a_time):
        scores_bT = _check_no_nan(score(part, everything))
        texts_R = ((image_index_T >= part.start) & (image_index_T < part.stop)).nonzero()[:, 0]
        of_images.append(_ranks_of_pairs(scores_bT, image_index_T[texts_R] - part.start, texts_R))
    for part in parts_of(len(image_index_T), num_images, scores_at_a_time):
        scores_Bt = _check_no_nan(score(everything, part))
        images_R = image_index_T[part]
        of_texts.append(_ranks_of_pairs(scores_Bt.T, torch.arange(len(images_R), device=images_R.device), images_R))
    image_to_text, text_to_image = (
        MatchRanks(*(torch.cat(parts) for parts in zip(*ranks, strict=True))) for ranks in (of_images, of_texts)
    )
    return RetrievalRanks(image_to_text, text_to_image)


def embedding_scores(image_embeds_BD: Tensor, text_embeds_TD: Tensor) -> ScoreFunction:
    """
    The dot products of images and texts, for [`retrieval_ranks`]: in float32, or float64 where both sides are.

    Equal embeddings have equal scores on each side of which everything is asked for. A matrix product alone does not
    give that: its kernels sum in another order at the edges of a matrix, so copies of one text differ in the last bit,
    and ties are lost. So each distinct embedding is multiplied once. Half precision is raised before the product:
    rounding a score to bfloat16 leaves 128 values between 1/4 and 1/2, and makes ties of what is none.

    Raises:
        ValueError: where shapes do not fit or a number is not finite.
    """
    sides = (image_embeds_BD, text_embeds_TD)
    if any(side.ndim != 2 for side in sides) or image_embeds_BD.shape[1] != text_embeds_TD.shape[1]:
        shapes = " and ".join(str(tuple(side.shape)) for side in sides)
        raise ValueError(f"embeddings must be (images, width) and (texts, width), but are {shapes}")
    if not all(side.isfinite().all() for side in sides):
        raise ValueError("embeddings must be finite, but at least one number is not")
    dtype = torch.float64 if all(side.dtype == torch.float64 for side in sides) else torch.float32
    of_images, of_texts = (DistinctEmbeddings(side.detach().to(dtype)) for side in sides)
    everything = slice(None)

    def score(images: slice, texts: slice) -> Tensor:
        image_rows, text_rows = (
            side.embeds_UD if part == everything else side.embeds_ND[part]
            for side, part in ((of_images, images), (of_texts, texts))
        )
        scores = image_rows @ text_rows.T
        scores = of_images.spread(scores, 0) if images == everything else scores
        return of_texts.spread(scores, 1) if texts == everything else scores

    return score


class DistinctEmbeddings:
    """
    (N, D) embeddings and those of them that are distinct, (U, D): what is computed of a distinct one and spread has the
    same value for all of its copies, whatever the kernels do.
    """

    def __init__(self, embeds_ND: Tensor) -> None:
        distinct_UD, place_N = embeds_ND.unique(dim=0, return_inverse=True)
        has_copies = len(distinct_UD) < len(embeds_ND)
        self.embeds_ND = embeds_ND
        self.embeds_UD: Tensor = distinct_UD if has_copies else embeds_ND
        self._place_N: Tensor | None = place_N if has_copies else None

    def spread(self, scores: Tensor, dim: int) -> Tensor:
        """The scores of all N, from those of the U distinct ones, which lie along `dim`."""
        return scores if self._place_N is None else scores.index_select(dim, self._place_N)

    def places(self, index_R: Tensor) -> Tensor:
        """(R,) int64: where in `embeds_UD` the embeddings of given numbers are."""
        return index_R if self._place_N is None else self._place_N.to(index_R.device)[index_R]


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
    _check_no_nan(scores_N)
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

    Raises:
        ValueError: where there is no value, one is not finite, or there are not as many clusters' numbers as values.
    """
    _check_not_empty(values_N, "values")
    if not values_N.isfinite().all():
        raise ValueError("values must be finite, but at least one is not")
    if cluster_index_N is None:
        cluster_index_N = torch.arange(len(values_N))
    if cluster_index_N.shape != values_N.shape:
        shapes = f"{tuple(values_N.shape)}, {tuple(cluster_index_N.shape)}"
        raise ValueError(f"values and cluster_index must both be (N,), but are {shapes}")
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


def _ranks_of_pairs(scores_QC: Tensor, query_R: Tensor, candidate_R: Tensor) -> MatchRanks:
    """Ranks of the best relevant candidates; every query is in at least one of the R pairs, and no score is NaN."""
    if scores_QC.shape[1] >= 2**24:
        raise ValueError(f"candidates must be fewer than {2**24} in number, but are {scores_QC.shape[1]}")
    device, scores_QC = query_R.device, scores_QC.detach()
    if not scores_QC.is_floating_point():  # it has no infinity
        scores_QC = scores_QC.double()
    query_R, candidate_R = query_R.to(scores_QC.device), candidate_R.to(scores_QC.device)
    relevant_R = scores_QC[query_R, candidate_R]
    lowest_Q = scores_QC.new_full((len(scores_QC),), -torch.inf)
    best_Q = lowest_Q.scatter_reduce(0, query_R, relevant_R, "amax")
    tied_relevant_Q = torch.bincount(query_R[relevant_R == best_Q[query_R]], minlength=len(best_Q))
    # Ones in float32, which are exact up to 2**24, are added up many times faster than booleans are.
    ones_QC = torch.empty_like(scores_QC, dtype=torch.float32)
    ahead_Q = torch.gt(scores_QC, best_Q[:, None], out=ones_QC).sum(dim=1).long()
    tied_Q = torch.eq(scores_QC, best_Q[:, None], out=ones_QC).sum(dim=1).long()
    return MatchRanks(ahead_Q.to(device), tied_Q.to(device), tied_relevant_Q.to(device))


def parts_of(rows: int, columns: int, scores_at_a_time: int) -> list[slice]:
    """Slices of consecutive rows, so many that rows x columns stays within `scores_at_a_time`, but one at least."""
    size = max(1, scores_at_a_time // columns)
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def _check_no_nan(scores: Tensor) -> Tensor:
    # The largest of some numbers is NaN if any of them is, and takes no memory to find.
    if scores.numel() and scores.max().isnan():
        raise ValueError("scores must not be NaN, but at least one is")
    return scores


def _check_indices(indices: Tensor, end: int, what: str) -> None:
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < end:
        raise ValueError(f"{what} must be indices below {end}, but is {int(indices.min())} … {int(indices.max())}")


def _check_not_empty(values: Tensor, what: str) -> None:
    if len(values) == 0:
        raise ValueError(f"the number of {what} must be at least 1, but is 0")
