"""
Scores with weights, which each half of the queries chooses for the other half.

No query helps to choose the weights by which it is measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .metrics import MatchRanks, RetrievalRanks, choose_ranks, hits_at_k


class FittedRanks(NamedTuple):
    """Ranks of all queries, each by the weights that were chosen for it."""

    ranks: RetrievalRanks
    weights: dict[str, dict[str, Any]]
    """By direction the weights for the queries of images with `even` and with `odd` indices, ready for JSON."""


def fitted_ranks(tried: Mapping[Any, RetrievalRanks], image_index_T: Tensor, num_images: int) -> FittedRanks:
    """
    Chooses weights for the queries of even images by the R@1 of those of odd ones, and the other way round.

    Args:
        tried: Ranks by each choice of weights. The first of equally good ones is chosen.
        image_index_T: (T,) int64, the image of each text.
        num_images: Number of images.
    """
    is_odd_B = torch.arange(num_images) % 2 == 1
    weights = list(tried)
    directions: dict[str, MatchRanks] = {}
    chosen = {}
    for direction, is_odd_Q in (("image_to_text", is_odd_B), ("text_to_image", is_odd_B[image_index_T])):
        tried_ranks = [getattr(ranks, direction) for ranks in tried.values()]
        even, odd = chosen_for_halves(tried_ranks, is_odd_Q)
        directions[direction] = choose_ranks(is_odd_Q, tried_ranks[odd], tried_ranks[even])
        chosen[direction] = {"even": weights[even], "odd": weights[odd]}
    return FittedRanks(RetrievalRanks(**directions), chosen)


def chosen_for_halves(tried: Sequence[MatchRanks], is_odd_Q: Tensor) -> tuple[int, int]:
    """
    Returns which of the tried settings is best for the even and for the odd queries, by the R@1 of the other half.

    Args:
        tried: Ranks of all queries by each setting. The first of equally good ones is chosen.
        is_odd_Q: (Q,) bool, which half each query is in.
    """
    return best_for_halves([hits_at_k(ranks, 1) for ranks in tried], is_odd_Q)


def best_for_halves(hits: Sequence[Tensor], is_odd_Q: Tensor) -> tuple[int, int]:
    """
    Returns which of some settings is best for the even and for the odd queries, by the hits of the other half.

    Args:
        hits: The hits of all queries by each setting, (Q,). The first of equally good ones is chosen.
        is_odd_Q: (Q,) bool, which half each query is in.
    """

    def best_on(is_chosen_Q: Tensor) -> int:
        sums = [float(hits_Q[is_chosen_Q].sum()) for hits_Q in hits]
        return sums.index(max(sums))

    return best_on(is_odd_Q), best_on(~is_odd_Q)
