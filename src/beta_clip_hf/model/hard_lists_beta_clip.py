# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The lists of hard texts: for each flagged region its true text and its negatives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .tiled_beta_clip import at_least_float32


@dataclass
class HardLists:
    """
    Holds the scores' operands of flagged regions, each of which has a true text and negatives.

    Args:
        region_ND (`Tensor` of shape `(N, D)`): The region of each hard text, in at least float32.
        text_ND (`Tensor` of shape `(N, D)`): The hard texts, in at least float32.
        first_N (`Tensor` of shape `(N,)`, int64): The place of the true text of each hard text's list.
        is_true_N (`Tensor` of shape `(N,)`, bool): Which of them are the true ones.
    """

    region_ND: Tensor
    text_ND: Tensor
    first_N: Tensor
    is_true_N: Tensor


def hard_lists(region_RD: Tensor, text_ND: Tensor, index_N: Tensor) -> HardLists:
    """
    Finds the lists of flagged regions.

    Args:
        region_RD: (R, D) regions, flagged or not.
        text_ND: (N, D): for each flagged region its true text first, then its negatives.
        index_N: (N,) int64: the region of each text, non-decreasing.

    Raises:
        ValueError: if there is not one index for each hard text.
    """
    if index_N.shape != text_ND.shape[:1]:
        raise ValueError(
            f"hard_region_index must have shape ({len(text_ND)},), one per hard text, but is {tuple(index_N.shape)}"
        )
    first_N = torch.searchsorted(index_N, index_N)
    is_true_N = first_N == torch.arange(len(first_N), device=first_N.device)
    return HardLists(at_least_float32(region_RD)[index_N], at_least_float32(text_ND), first_N, is_true_N)


__all__ = ["HardLists", "hard_lists"]
