"""CLIP's 77 text positions, stretched to 248."""

import torch
from torch import Tensor

from .configuration_beta_clip import CLIP_TEXT_POSITIONS


# Most texts are short, so the first rows of CLIP's table are well trained: they are kept as they are.
KEPT_TEXT_POSITIONS = 20


def stretch_text_positions(table_77: Tensor) -> Tensor:
    """
    Stretches CLIP's 77 text positions to 248: the first 20 rows are kept, the other 57 become four times as many.

    Args:
        table_77 (`Tensor` of shape `(77, width)`).

    Returns:
        A `(248, width)` tensor of the same dtype. Rows 20..243 interpolate linearly between neighbours, the last four
        go on beyond the last row with a quarter of the last step.

    Raises:
        ValueError: if there are not 77 rows.

    Source: Long-CLIP's stretch, as β-CLIP and FG-CLIP use it.
    """
    if len(table_77) != CLIP_TEXT_POSITIONS:
        raise ValueError(f"the table must have {CLIP_TEXT_POSITIONS} rows, but has {len(table_77)}")
    # Weighted sums of half precision would lose digits; float64 stays.
    table = table_77.to(torch.promote_types(table_77.dtype, torch.float32))
    left = table[KEPT_TEXT_POSITIONS:-1, None]
    right = table[KEPT_TEXT_POSITIONS + 1 :, None]
    quarters = torch.arange(4, dtype=table.dtype, device=table.device)[:, None]
    between = (((4 - quarters) * left + quarters * right) / 4).flatten(0, 1)
    beyond = table[-1] + quarters * (table[-1] - table[-2]) / 4
    return torch.cat([table[:KEPT_TEXT_POSITIONS], between, beyond]).to(table_77.dtype)


__all__ = ["KEPT_TEXT_POSITIONS", "stretch_text_positions"]
