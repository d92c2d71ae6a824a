"""
Ranks of retrieval by a weighted sum of scores, whose weights each half of the queries chooses for the other half.

To choose, only the first place of each query is asked for: that takes two maxima for each choice of weights, while the
scores are in the caches. All ranks are computed once, by the weights that were chosen.

N in names of tensors is the number of choices of weights, K that of the scores that are summed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .fitted import FittedRanks, best_for_halves
from .metrics import SCORES_AT_A_TIME, RetrievalRanks, hits_at_k, match_ranks, retrieval_ranks, row_slices
from .scores import EVERYTHING, check_no_nan


# Two scores and their sum still fit into the caches of a core.
_SCORES_IN_CACHE = 2**17


def weighted_ranks(
    scores_BT: Sequence[Tensor], choices: Mapping[Any, Sequence[float]], image_index_T: Tensor
) -> FittedRanks:
    """
    Ranks retrieval both ways by a weighted sum of scores.

    The weights of the queries of even images are those with the best R@1 on the queries of odd images, and the other
    way round. The first of equally good ones is chosen.

    Args:
        scores_BT: K tensors (B, T) on one device: the scores that are summed.
        choices: Weights of the K scores by a label that JSON can hold. They are not negative, and their sum is 1.
        image_index_T: (T,) int64, the image of each text.

    Raises:
        ValueError: if a score is NaN.
    """
    num_images = len(scores_BT[0])
    device = scores_BT[0].device
    image_index_T = image_index_T.to(device)
    labels = list(choices)
    weights_NK = torch.tensor([tuple(choices[label]) for label in labels], dtype=scores_BT[0].dtype, device=device)
    is_odd_B = torch.arange(num_images, device=device) % 2 == 1
    directions = ("image_to_text", "text_to_image")
    halves = (is_odd_B, is_odd_B[image_index_T])
    hits = first_place_hits(scores_BT, list(choices.values()), image_index_T)
    chosen = {}
    weights = {}
    for direction, hits_NQ, is_odd_Q in zip(directions, hits, halves, strict=True):
        even, odd = best_for_halves(list(hits_NQ), is_odd_Q)
        chosen[direction] = {"even": labels[even], "odd": labels[odd]}
        weights[direction] = torch.where(is_odd_Q[:, None], weights_NK[odd], weights_NK[even])

    def score(images: slice, texts: slice) -> Tensor:
        """Weighs each query by its own weights: images where all texts are asked for, else texts."""
        if texts == EVERYTHING:
            weights_K = weights["image_to_text"][images].T[:, :, None]
        else:
            weights_K = weights["text_to_image"][texts].T[:, None, :]
        return weighted_sum([part_BT[images, texts] for part_BT in scores_BT], weights_K)

    ranks = retrieval_ranks(score, image_index_T, num_images)
    return FittedRanks(RetrievalRanks(*(direction_ranks.to("cpu") for direction_ranks in ranks)), chosen)


def weighted_sum(scores: Sequence[Tensor], weights: Any) -> Tensor:
    """Returns the sum of scores, each times its weight: a number, or a tensor that fits the scores."""
    # Products first and sums after them: a fused kernel may round the last numbers of a row differently, and break ties
    # of copies.
    total = scores[0] * weights[0]
    for part, weight in zip(scores[1:], weights[1:], strict=True):
        total += part * weight
    return total


def first_place_hits(
    scores_BT: Sequence[Tensor], choices: Sequence[Sequence[float]], image_index_T: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Computes R@1 of each query by each of several weighted sums of scores.

    Args:
        scores_BT: K tensors (B, T), the scores that are summed.
        choices: N times the weights of the K scores. They are not negative.
        image_index_T: (T,) int64 on the device of the scores, the image of each text; each image has one.

    Returns:
        (N, B) for images as queries and (N, T) for texts, both float64: the probability of a hit, as of
        [`hits_at_k`] for k = 1.

    Raises:
        ValueError: if a score is NaN.
    """
    num_images, num_texts = scores_BT[0].shape
    text_index_T = torch.arange(num_texts, device=image_index_T.device)
    # Scores of the T pairs that belong together, and the best of each image.
    pairs = [part_BT[image_index_T, text_index_T] for part_BT in scores_BT]
    pair_NT = torch.stack([_equivalent_sum(pairs, weights) for weights in choices])
    lowest_NB = pair_NT.new_full((len(choices), num_images), -torch.inf)
    best_NB = lowest_NB.scatter_reduce(1, image_index_T.expand_as(pair_NT), pair_NT, "amax")
    # The best of all other pairs.
    other_NB = lowest_NB.clone()
    other_NT = torch.full_like(pair_NT, -torch.inf)
    for images in row_slices(num_images, num_texts, _scores_at_a_time(image_index_T.device)):
        is_of_images_T = (image_index_T >= images.start) & (image_index_T < images.stop)
        text_M = is_of_images_T.nonzero()[:, 0]
        row_M = image_index_T[text_M] - images.start
        others = []
        for part_BT in scores_BT:
            other = part_BT[images].clone()
            other[row_M, text_M] = -torch.inf
            others.append(other)
        for number, weights in enumerate(choices):
            total = _equivalent_sum(others, weights)
            other_NB[number, images] = total.amax(dim=1)
            torch.maximum(other_NT[number], total.amax(dim=0), out=other_NT[number])
    for totals in (pair_NT, other_NB, other_NT):
        check_no_nan(totals)
    hits_NB = (best_NB > other_NB).double()
    hits_NT = (pair_NT > other_NT).double()
    for number, weights in enumerate(choices):
        _share_ties(hits_NB[number], best_NB[number] == other_NB[number], scores_BT, weights, image_index_T)
        transposed_TB = [part_BT.T for part_BT in scores_BT]
        is_tied_T = pair_NT[number] == other_NT[number]
        _share_ties(hits_NT[number], is_tied_T, transposed_TB, weights, image_index_T, queries_are_texts=True)
    return hits_NB, hits_NT


def _equivalent_sum(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Returns scores in the order of the weighted sum, by the fewest operations: one of the weights is made 1."""
    present = [(part, weight) for part, weight in zip(scores, weights, strict=True) if weight]
    unit, unit_weight = present[-1]
    total = unit
    for part, weight in present[:-1]:
        total = (part * (weight / unit_weight)).add_(total)
    return total


def _scores_at_a_time(device: torch.device) -> int:
    """Returns how many scores are summed at once."""
    return _SCORES_IN_CACHE if device.type == "cpu" else SCORES_AT_A_TIME["other"]


def _share_ties(
    hits_Q: Tensor,
    is_tied_Q: Tensor,
    scores_QG: Sequence[Tensor],
    weights: Sequence[float],
    image_index_T: Tensor,
    *,
    queries_are_texts: bool = False,
) -> None:
    """Sets the hits of the queries whose first place is shared by what is relevant and what is not."""
    tied_queries = is_tied_Q.nonzero()[:, 0]
    for part in row_slices(len(tied_queries), scores_QG[0].shape[1], _scores_at_a_time(hits_Q.device)):
        queries = tied_queries[part]
        total_QG = _equivalent_sum([part_QG[queries] for part_QG in scores_QG], weights)
        relevant = image_index_T[queries] if queries_are_texts else image_index_T == queries[:, None]
        hits_Q[queries] = hits_at_k(match_ranks(total_QG, relevant), 1)
