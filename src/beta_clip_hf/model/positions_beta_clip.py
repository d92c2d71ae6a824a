# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP's text positions, stretched for longer texts: 77 to 248, or any other numbers."""

from math import gcd

import torch
from torch import Tensor

from .configuration_beta_clip import CLIP_TEXT_POSITIONS, LONG_TEXT_POSITIONS


# Most texts are short, so the first rows of CLIP's table are well trained: they are kept as they are.
KEPT_TEXT_POSITIONS = 20


def stretch_text_positions(table_77: Tensor) -> Tensor:
    """
    Stretches CLIP's 77 text positions to 248: the first 20 rows are kept, the other 57 become four times as many.

    Args:
        table_77 (`Tensor` of shape `(77, width)`).

    Returns:
        A `(248, width)` tensor of the same dtype, see [`stretch_table`].

    Raises:
        ValueError: if there are not 77 rows.

    Source: Long-CLIP's stretch, as β-CLIP and FG-CLIP use it.
    """
    if len(table_77) != CLIP_TEXT_POSITIONS:
        raise ValueError(f"the table must have {CLIP_TEXT_POSITIONS} rows, but has {len(table_77)}")
    return stretch_table(table_77, LONG_TEXT_POSITIONS)


def stretch_table(table: Tensor, length: int, usual_rows: int = CLIP_TEXT_POSITIONS) -> Tensor:
    """
    Stretches a table of any number of text positions, as [`stretch_text_positions`] does with 77.

    The same share of first rows is kept: 20 of the usual number.

    Args:
        table (`Tensor` of shape `(rows, width)`).
        length: The number of rows to make.
        usual_rows: The rows of which 20 are kept: 77 in CLIP, 64 in SigLIP.

    Returns:
        A `(length, width)` tensor of the same dtype. The rows that are not kept interpolate linearly between
        neighbours; those beyond the last row go on with its step. A table with as many rows or more is cut.
    """
    rows = len(table)
    if rows >= length:
        return table[:length]
    kept = round(rows * KEPT_TEXT_POSITIONS / usual_rows)
    # A new row lies this many old rows after the one before it: a quarter for CLIP.
    divisor = gcd(rows - kept, length - kept)
    numerator, denominator = (rows - kept) // divisor, (length - kept) // divisor
    # Weighted sums of half precision would lose digits; float64 stays.
    wide_table = table.to(torch.promote_types(table.dtype, torch.float32))
    steps = torch.arange(length - kept, device=table.device) * numerator
    left_index = kept + steps.div(denominator, rounding_mode="floor")
    # Beyond the last row there is no neighbour.
    is_between = left_index < rows - 1
    parts = (steps % denominator)[is_between, None]
    left = wide_table[left_index[is_between]]
    right = wide_table[left_index[is_between] + 1]
    between = ((denominator - parts) * left + parts * right) / denominator
    parts = (steps - (rows - 1 - kept) * denominator)[~is_between, None]
    # A table of a single row has no step.
    last_step = wide_table[-1] - wide_table[max(0, rows - 2)]
    beyond = wide_table[-1] + parts * last_step / denominator
    return torch.cat([wide_table[:kept], between, beyond]).to(table.dtype)


__all__ = ["KEPT_TEXT_POSITIONS", "stretch_table", "stretch_text_positions"]
