"""The logits of a contrastive loss one tile at a time, and what is summed up from tile to tile.

Letters: N left rows, M right rows (the columns of the logits), D width; n, m: rows and columns of one tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


# Longest side of a tile: two buffers of float32 take 8 MB, which a CPU's cache holds, or 32 MB, which a GPU's holds.
CPU_TILE, DEVICE_TILE = 1024, 2048


@dataclass
class Tile:
    """
    One tile of S_ij = s · left_i·right_j. `logits` and `scratch` may be overwritten, and are by the next tile.

    `own_column` is the column within the tile, in it or not, that belongs to the tile's first row.
    """

    rows: slice
    columns: slice
    own_column: int
    logits_me: Tensor
    scratch_me: Tensor

    @property
    def own_rows(self) -> slice:
        """The rows, among all N, whose own column is in the tile."""
        start = self.rows.start + max(0, -self.own_column)
        return slice(start, start + len(self.own(self.logits_me)))

    def own(self, values_me: Tensor) -> Tensor:
        """A view of the values of the pairs of a row and its own column."""
        return values_me.diagonal(self.own_column)

    def equal(self, id_E: Tensor) -> Tensor | None:
        """Which pairs have the same id, `(n, m)`; `None` where it is known at no cost that none has."""
        first = self.columns.start + self.own_column
        row_id_m, column_id_e = id_E[first : first + len(self.logits_me)], id_E[self.columns]
        if id_E.device.type == "cpu":  # elsewhere the question would wait for its answer
            (lowest, highest), (lowest_column, highest_column) = row_id_m.aminmax(), column_id_e.aminmax()
            if lowest > highest_column or highest < lowest_column:
                return None
        return row_id_m[:, None] == column_id_e

    def leave_out_equal(self, id_E: Tensor | None) -> None:
        """Takes the pairs of different rows with the same id out of every softmax."""
        equal_me = None if id_E is None else self.equal(id_E)
        if equal_me is not None:
            self.own(equal_me).fill_(False)
            self.logits_me.masked_fill_(equal_me, -torch.inf)


def tiles_of(left_MD: Tensor, right_ED: Tensor, scale: Tensor, first_row: int) -> Iterator[Tile]:
    """
    All tiles of the logits, in two buffers.

    Args:
        left_MD (`Tensor` of shape `(N, D)`), right_ED (`Tensor` of shape `(M, D)`): in the precision of the logits.
        scale (scalar `Tensor`): s.
        first_row (`int`): row i's own column is `first_row + i`.
    """
    assert first_row + len(left_MD) <= len(right_ED), "each row has its own column"
    row_blocks, column_blocks = _cut(left_MD), _cut(right_ED)
    largest = [max((block.stop - block.start for block in blocks), default=0) for blocks in (row_blocks, column_blocks)]
    logits, scratch = left_MD.new_empty(largest[0] * largest[1]), left_MD.new_empty(largest[0] * largest[1])
    for rows in row_blocks:
        scaled_mD = left_MD[rows] * scale
        for columns in column_blocks:
            n, m = rows.stop - rows.start, columns.stop - columns.start
            logits_me, scratch_me = logits[: n * m].view(n, m), scratch[: n * m].view(n, m)
            # Autocast leaves a product with `out` alone: logits up to 100 need more digits than half precision has.
            torch.mm(scaled_mD, right_ED[columns].T, out=logits_me)
            yield Tile(rows, columns, first_row + rows.start - columns.start, logits_me, scratch_me)


class OnlineLogSumExp:
    """
    The log-sum-exp of each row of logits that come tile by tile, kept as a shift, the largest logit so far, and the sum
    of exp(logit − shift): nothing overflows, and the difference loses no digit where it matters, near 0.
    """

    def __init__(self, embeds_MD: Tensor) -> None:
        # Not −∞: all that a tile has for a row may be left out, and −∞ − (−∞) is no number.
        self.shift_M = embeds_MD.new_full((len(embeds_MD),), torch.finfo(embeds_MD.dtype).min)
        self.sum_M = torch.zeros_like(self.shift_M)

    def add(self, tile: Tile, rows: slice, dim: int) -> None:
        """Logits of some rows, along `dim` of a tile; overwrites its scratch."""
        old_m = self.shift_M[rows].clone()
        shift_m = torch.maximum(old_m, tile.logits_me.amax(dim), out=self.shift_M[rows])
        terms_me = torch.sub(tile.logits_me, shift_m.unsqueeze(dim), out=tile.scratch_me).exp_()
        self.sum_M[rows] = self.sum_M[rows] * (old_m - shift_m).exp() + terms_me.sum(dim)

    def value(self) -> Tensor:
        """`(N,)`; −∞ for a row that got no logit, or none but −∞."""
        return self.shift_M + self.sum_M.log()


class EmbedGradients:
    """Gradients of left, right and s, those that are needed, summed up from gradients of the logits tile by tile."""

    def __init__(self, ctx: Any, left_MD: Tensor, right_ED: Tensor, scale: Tensor) -> None:
        self.left_MD, self.right_ED, self.scale = left_MD, right_ED, scale
        self.need_left, self.need_right, self.need_scale = ctx.needs_input_grad[:3]
        self.needed = self.need_left or self.need_right or self.need_scale
        self.left_grad_MD = torch.zeros_like(left_MD) if self.need_left or self.need_scale else None
        self.right_grad_ED = torch.zeros_like(right_ED) if self.need_right else None

    def add(self, tile: Tile, grad_me: Tensor) -> None:
        """In place, which autocast leaves alone, too."""
        if self.left_grad_MD is not None:
            self.left_grad_MD[tile.rows].addmm_(grad_me, self.right_ED[tile.columns])
        if self.right_grad_ED is not None:
            self.right_grad_ED[tile.columns].addmm_(grad_me.T, self.left_MD[tile.rows])

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The three gradients, `None` where one is not needed."""
        scale_grad = None
        if self.need_scale and self.left_grad_MD is not None:
            scale_grad = row_dots(self.left_MD, self.left_grad_MD).sum()  # before s is multiplied in
        for grad in (self.left_grad_MD, self.right_grad_ED):
            if grad is not None:
                grad *= self.scale
        return self.left_grad_MD if self.need_left else None, self.right_grad_ED, scale_grad


def row_dots(left_MD: Tensor, right_MD: Tensor) -> Tensor:
    """left_i·right_i, `(N,)`, without a third tensor of their size."""
    parts = [(left_MD[rows] * right_MD[rows]).sum(dim=1) for rows in _cut(left_MD)]
    return torch.cat([left_MD.new_zeros(0), *parts])


def _cut(embeds_MD: Tensor) -> list[slice]:
    """Blocks of rows, none longer than a tile's side and none much shorter than the others."""
    length, side = len(embeds_MD), CPU_TILE if embeds_MD.device.type == "cpu" else DEVICE_TILE
    count = -(-length // side)
    edges = [length * block // count for block in range(count + 1)] if count else []
    return [slice(start, stop) for start, stop in pairwise(edges)]


__all__ = ["EmbedGradients", "OnlineLogSumExp", "Tile", "row_dots", "tiles_of"]
