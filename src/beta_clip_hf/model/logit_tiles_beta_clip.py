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
    logits_nm: Tensor
    scratch_nm: Tensor

    @property
    def own_rows(self) -> slice:
        """The rows, among all N, whose own column is in the tile."""
        start = self.rows.start + max(0, -self.own_column)
        return slice(start, start + len(self.own(self.logits_nm)))

    def own(self, values_nm: Tensor) -> Tensor:
        """A view of the values of the pairs of a row and its own column."""
        return values_nm.diagonal(self.own_column)

    def equal(self, id_M: Tensor) -> Tensor | None:
        """Which pairs have the same id, `(n, m)`; `None` where it is known at no cost that none has."""
        first = self.columns.start + self.own_column
        row_id_n, column_id_m = id_M[first : first + len(self.logits_nm)], id_M[self.columns]
        if id_M.device.type == "cpu":  # elsewhere the question would wait for its answer
            (lowest, highest), (lowest_column, highest_column) = row_id_n.aminmax(), column_id_m.aminmax()
            if lowest > highest_column or highest < lowest_column:
                return None
        return row_id_n[:, None] == column_id_m

    def leave_out_equal(self, id_M: Tensor | None) -> None:
        """Takes the pairs of different rows with the same id out of every softmax."""
        equal_nm = None if id_M is None else self.equal(id_M)
        if equal_nm is not None:
            self.own(equal_nm).fill_(False)
            self.logits_nm.masked_fill_(equal_nm, -torch.inf)


def tiles_of(left_ND: Tensor, right_MD: Tensor, scale: Tensor, first_row: int) -> Iterator[Tile]:
    """
    All tiles of the logits, in two buffers.

    Args:
        left_ND (`Tensor` of shape `(N, D)`), right_MD (`Tensor` of shape `(M, D)`): in the precision of the logits.
        scale (scalar `Tensor`): s.
        first_row (`int`): row i's own column is `first_row + i`.
    """
    assert first_row + len(left_ND) <= len(right_MD), "each row has its own column"
    row_blocks, column_blocks = _cut(left_ND), _cut(right_MD)
    largest = [max((block.stop - block.start for block in blocks), default=0) for blocks in (row_blocks, column_blocks)]
    logits, scratch = left_ND.new_empty(largest[0] * largest[1]), left_ND.new_empty(largest[0] * largest[1])
    for rows in row_blocks:
        scaled_nD = left_ND[rows] * scale
        for columns in column_blocks:
            n, m = rows.stop - rows.start, columns.stop - columns.start
            logits_nm, scratch_nm = logits[: n * m].view(n, m), scratch[: n * m].view(n, m)
            # Autocast leaves a product with `out` alone: logits up to 100 need more digits than half precision has.
            torch.mm(scaled_nD, right_MD[columns].T, out=logits_nm)
            yield Tile(rows, columns, first_row + rows.start - columns.start, logits_nm, scratch_nm)


class OnlineLogSumExp:
    """
    The log-sum-exp of each row of logits that come tile by tile, kept as a shift, the largest logit so far, and the sum
    of exp(logit − shift): nothing overflows, and the difference loses no digit where it matters, near 0.
    """

    def __init__(self, embeds_ND: Tensor) -> None:
        # Not −∞: all that a tile has for a row may be left out, and −∞ − (−∞) is no number.
        self.shift_N = embeds_ND.new_full((len(embeds_ND),), torch.finfo(embeds_ND.dtype).min)
        self.sum_N = torch.zeros_like(self.shift_N)

    def add(self, tile: Tile, rows: slice, dim: int) -> None:
        """Logits of some rows, along `dim` of a tile; overwrites its scratch."""
        old_n = self.shift_N[rows].clone()
        shift_n = torch.maximum(old_n, tile.logits_nm.amax(dim), out=self.shift_N[rows])
        terms_nm = torch.sub(tile.logits_nm, shift_n.unsqueeze(dim), out=tile.scratch_nm).exp_()
        self.sum_N[rows] = self.sum_N[rows] * (old_n - shift_n).exp() + terms_nm.sum(dim)

    def value(self) -> Tensor:
        """`(N,)`; −∞ for a row that got no logit, or none but −∞."""
        return self.shift_N + self.sum_N.log()


class EmbedGradients:
    """Gradients of left, right and s, those that are needed, summed up from gradients of the logits tile by tile."""

    def __init__(self, ctx: Any, left_ND: Tensor, right_MD: Tensor, scale: Tensor) -> None:
        self.left_ND, self.right_MD, self.scale = left_ND, right_MD, scale
        self.need_left, self.need_right, self.need_scale = ctx.needs_input_grad[:3]
        self.needed = self.need_left or self.need_right or self.need_scale
        self.left_grad_ND = torch.zeros_like(left_ND) if self.need_left or self.need_scale else None
        self.right_grad_MD = torch.zeros_like(right_MD) if self.need_right else None

    def add(self, tile: Tile, grad_nm: Tensor) -> None:
        """In place, which autocast leaves alone, too."""
        if self.left_grad_ND is not None:
            self.left_grad_ND[tile.rows].addmm_(grad_nm, self.right_MD[tile.columns])
        if self.right_grad_MD is not None:
            self.right_grad_MD[tile.columns].addmm_(grad_nm.T, self.left_ND[tile.rows])

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The three gradients, `None` where one is not needed."""
        scale_grad = None
        if self.need_scale and self.left_grad_ND is not None:
            scale_grad = row_dots(self.left_ND, self.left_grad_ND).sum()  # before s is multiplied in
        for grad in (self.left_grad_ND, self.right_grad_MD):
            if grad is not None:
                grad *= self.scale
        return self.left_grad_ND if self.need_left else None, self.right_grad_MD, scale_grad


def row_dots(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """left_i·right_i, `(N,)`, without a third tensor of their size."""
    parts = [(left_ND[rows] * right_ND[rows]).sum(dim=1) for rows in _cut(left_ND)]
    return torch.cat([left_ND.new_zeros(0), *parts])


def _cut(embeds_ND: Tensor) -> list[slice]:
    """Blocks of rows, none longer than a tile's side and none much shorter than the others."""
    length, side = len(embeds_ND), CPU_TILE if embeds_ND.device.type == "cpu" else DEVICE_TILE
    count = -(-length // side)
    edges = [length * block // count for block in range(count + 1)] if count else []
    return [slice(start, stop) for start, stop in pairwise(edges)]


__all__ = ["EmbedGradients", "OnlineLogSumExp", "Tile", "row_dots", "tiles_of"]
