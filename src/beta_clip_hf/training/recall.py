"""Recall among pairs: the retrieval of an evaluation during training.

Letters: N pairs, D projection width.
"""

import torch
from torch import Tensor

from ..evaluation.metrics import DEFAULT_KS, MatchRanks, hits_at_k, match_ranks


RANKED_AT_A_TIME = 1024  # queries, so that the scores of 50,000 images need 200 MB and not 10 GB


def recall_of_pairs(queries_ND: Tensor, candidates_ND: Tensor) -> dict[int, float]:
    """Recall at 1, 5 and 10 where query i belongs to candidate i, without the whole score matrix at once."""
    target_N = torch.arange(len(queries_ND), device=queries_ND.device)
    parts = [
        match_ranks(rows @ candidates_ND.T, targets)
        for rows, targets in zip(queries_ND.split(RANKED_AT_A_TIME), target_N.split(RANKED_AT_A_TIME), strict=True)
    ]
    ranks = MatchRanks(*(torch.cat(fields).cpu() for fields in zip(*parts, strict=True)))
    return {k: hits_at_k(ranks, k).mean().item() for k in DEFAULT_KS}


__all__ = ["recall_of_pairs"]
