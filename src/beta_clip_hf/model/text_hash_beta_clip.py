# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers by which equal texts are found on any device and in any process."""

import torch
from torch import Tensor


# The multiplier of Knuth's linear congruential generator MMIX: odd, and its powers modulo 2^64 look random.
_HASH_FACTOR = 6364136223846793005


def hash_tokens(input_ids_TL: Tensor, is_token_TL: Tensor | int = 1) -> Tensor:
    """
    Returns a number `(T,)` int64 for each row of tokens, equal for equal rows.

    It is a polynomial of the tokens modulo 2^64: computed on the GPU, with no wait, and equal in all processes.

    Args:
        input_ids_TL (`Tensor` of shape `(T, L)`): Token ids.
        is_token_TL (`Tensor` of shape `(T, L)`, bool, *optional*): Which of them count; by default all.
    """
    position_L = torch.arange(input_ids_TL.shape[1], device=input_ids_TL.device)
    factor_L = torch.full_like(position_L, _HASH_FACTOR).cumprod(0)
    # Ids are counted from 1, because an id 0 would add nothing. Integers wrap around without an error.
    return ((input_ids_TL + 1) * factor_L * is_token_TL).sum(dim=1)


__all__ = ["hash_tokens"]
