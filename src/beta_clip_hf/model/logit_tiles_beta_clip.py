# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The logits of a contrastive loss one tile at a time, and what is summed up from tile to tile.

Every row on the left has a partner on the right, the column with the same number among all rows: an image and its
caption, a contextualised embedding and its text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


# Longest side of a tile. Its two buffers of float32 take 8 MB, which fit a CPU's cache, or 32 MB, which fit a GPU's.
CPU_TILE = 1024
DEVICE_TILE = 2048


@dataclass
class Tile:
    """
    Holds one tile of S_ij = s · left_i·right_j.

    Both tensors may be overwritten: the next tile uses the same memory.

    Args:
        rows, columns: The rows and columns of all logits that the tile covers.
        partner_column: The partner of the tile's first row, as a column of the tile. It may lie outside of the tile.
        logits_me: The logits.
        scratch_me: Memory of the same shape.
    """

    rows: slice
    columns: slice
    partner_column: int
    logits_me: Tensor
    scratch_me: Tensor

    @property
    def rows_with_partner(self) -> slice:
        """The rows, among all left rows, whose partner is in the tile."""
        start = self.rows.start + max(0, -self.partner_column)
        return slice(start, start + len(self.partners(self.logits_me)))

    def partners(self, values_me: Tensor) -> Tensor:
        """Returns a view of the values of the pairs of a row and its partner."""
        return values_me.diagonal(self.partner_column)

    def equal(self, id_E: Tensor) -> Tensor | None:
        """Returns which pairs have the same id, `(m, e)`; `None` if it costs nothing to know that none has."""
        first = self.columns.start + self.partner_column
        row_id_m = id_E[first : first + len(self.logits_me)]
        column_id_e = id_E[self.columns]
        # On a GPU, asking for the ranges of the ids would wait for the answer.
        if id_E.device.type == "cpu":
            lowest, highest = row_id_m.aminmax()
            lowest_column, highest_column = column_id_e.aminmax()
            if lowest > highest_column or highest < lowest_column:
                return None
        return row_id_m[:, None] == column_id_e

    def left_out(self, text_id_E: Tensor | None, image_index_E: Tensor | None) -> Tensor | None:
        """
        Returns which pairs are no negatives although they are no positives, `(m, e)`: they have the same text, and are
        not the same row.

        Args:
            text_id_E: Equal for rows with the same text. Without it no pair is left out.
            image_index_E: The image of each row, if pairs of one image are never left out.

        Returns:
            `None` if it costs nothing to know that there is no such pair.
        """
        if text_id_E is None:
            return None
        left_out_me = self.equal(text_id_E)
        if left_out_me is None:
            return None
        if image_index_E is None:
            self.partners(left_out_me).fill_(False)
            return left_out_me
        is_same_image_me = self.equal(image_index_E)
        if is_same_image_me is not None:
            left_out_me &= ~is_same_image_me
        return left_out_me

    def leave_out(self, text_id_E: Tensor | None, image_index_E: Tensor | None) -> None:
        """Takes the pairs of [`left_out`] out of every softmax."""
        left_out_me = self.left_out(text_id_E, image_index_E)
        if left_out_me is not None:
            self.logits_me.masked_fill_(left_out_me, -torch.inf)


def tiles_of(left_MD: Tensor, right_ED: Tensor, scale: Tensor, first_row: int) -> Iterator[Tile]:
    """
    Yields all tiles of the logits; all of them use the same two buffers.

    Args:
        left_MD (`Tensor` of shape `(M, D)`): The left rows, in the precision of the logits.
        right_ED (`Tensor` of shape `(E, D)`): The right rows, in the same precision.
        scale (scalar `Tensor`): s.
        first_row (`int`): The partner of left row i is right row `first_row + i`.
    """
    assert first_row + len(left_MD) <= len(right_ED), "each row has a partner"
    row_blocks = _blocks(left_MD)
    column_blocks = _blocks(right_ED)
    size = _longest(row_blocks) * _longest(column_blocks)
    logits = left_MD.new_empty(size)
    scratch = left_MD.new_empty(size)
    for rows in row_blocks:
        scaled_mD = left_MD[rows] * scale
        for columns in column_blocks:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            num_logits = shape[0] * shape[1]
            logits_me = logits[:num_logits].view(shape)
            # Autocast does not change a product with `out`: logits up to 100 need more digits than half precision has.
            torch.mm(scaled_mD, right_ED[columns].T, out=logits_me)
            partner_column = first_row + rows.start - columns.start
            yield Tile(rows, columns, partner_column, logits_me, scratch[:num_logits].view(shape))


class OnlineLogSumExp:
    """
    Computes the log-sum-exp of each row of logits that come tile by tile.

    It keeps a shift, the largest logit so far, and the sum of exp(logit − shift). Nothing overflows, and the difference
    loses no digit where it matters, near 0.
    """

    def __init__(self, embeds_MD: Tensor) -> None:
        # Not −∞: a tile may have no logit for a row, and −∞ − (−∞) is not a number.
        self.shift_M = embeds_MD.new_full((len(embeds_MD),), torch.finfo(embeds_MD.dtype).min)
        self.sum_M = torch.zeros_like(self.shift_M)

    def add(self, tile: Tile, rows: slice, dim: int) -> None:
        """Adds the logits of some rows, which lie along `dim` of a tile; overwrites its scratch."""
        old_shift_m = self.shift_M[rows].clone()
        new_shift_m = torch.maximum(old_shift_m, tile.logits_me.amax(dim), out=self.shift_M[rows])
        terms_me = torch.sub(tile.logits_me, new_shift_m.unsqueeze(dim), out=tile.scratch_me).exp_()
        self.sum_M[rows] = self.sum_M[rows] * (old_shift_m - new_shift_m).exp() + terms_me.sum(dim)

    def value(self) -> Tensor:
        """Returns the log-sum-exps, `(M,)`; −∞ for a row that has no logit above −∞."""
        return self.shift_M + self.sum_M.log()


class EmbedGradients:
    """Sums up gradients of left, right and s, as far as they are needed, from gradients of the logits of each tile."""

    def __init__(self, ctx: Any, left_MD: Tensor, right_ED: Tensor, scale: Tensor) -> None:
        self.left_MD = left_MD
        self.right_ED = right_ED
        self.scale = scale
        self.need_left, need_right, self.need_scale = ctx.needs_input_grad[:3]
        self.left_grad_MD: Tensor | None = None
        self.right_grad_ED: Tensor | None = None
        # The gradient of s is computed from that of the left side.
        if self.need_left or self.need_scale:
            self.left_grad_MD = torch.zeros_like(left_MD)
        if need_right:
            self.right_grad_ED = torch.zeros_like(right_ED)

    @property
    def needed(self) -> bool:
        """Whether any gradient is needed."""
        return self.left_grad_MD is not None or self.right_grad_ED is not None

    def add(self, tile: Tile, grad_me: Tensor) -> None:
        """Adds the gradients that the logits of a tile cause."""
        # In place, which autocast does not change.
        if self.left_grad_MD is not None:
            self.left_grad_MD[tile.rows].addmm_(grad_me, self.right_ED[tile.columns])
        if self.right_grad_ED is not None:
            self.right_grad_ED[tile.columns].addmm_(grad_me.T, self.left_MD[tile.rows])

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients of left, right and s, `None` for one that is not needed."""
        scale_grad = None
        if self.need_scale and self.left_grad_MD is not None:
            # Before s is multiplied in.
            scale_grad = row_dots(self.left_MD, self.left_grad_MD).sum()
        for grad in (self.left_grad_MD, self.right_grad_ED):
            if grad is not None:
                grad *= self.scale
        left_grad_MD = self.left_grad_MD if self.need_left else None
        return left_grad_MD, self.right_grad_ED, scale_grad


def row_dots(left_MD: Tensor, right_MD: Tensor) -> Tensor:
    """Returns left_i·right_i, `(M,)`, without a third tensor of their size."""
    parts = [(left_MD[rows] * right_MD[rows]).sum(dim=1) for rows in _blocks(left_MD)]
    return torch.cat([left_MD.new_zeros(0), *parts])


def _blocks(embeds_MD: Tensor) -> list[slice]:
    """Cuts the rows into blocks, none longer than a tile's side and none much shorter than the others."""
    if len(embeds_MD) == 0:
        return []
    side = CPU_TILE if embeds_MD.device.type == "cpu" else DEVICE_TILE
    count = -(-len(embeds_MD) // side)
    edges = [len(embeds_MD) * block // count for block in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _longest(blocks: list[slice]) -> int:
    """Returns the length of the longest block, 0 without any."""
    return max((block.stop - block.start for block in blocks), default=0)


__all__ = ["EmbedGradients", "OnlineLogSumExp", "Tile", "row_dots", "tiles_of"]
