# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Texts of any mix of lengths in full rows: where each token stands, planned on the CPU before the batch runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .ragged_beta_clip import Planned, exportable


# Columns come in multiples of this: the attention kernels copy masks of other widths, in every layer.
_ALIGNMENT = 16
# A place attends to its whole row. In a row of this many columns it costs twice what it costs in a short row. The
# number need not be precise: it only decides between plans that are nearly equal.
_ATTENTION_DOUBLES_AT = 2048
# Widths that are tried: from that of the longest text to _WIDEST times that, in _WIDTHS steps. The search ends early at
# a plan that has at most _NEARLY_FULL places for each token.
_WIDEST = 4
_WIDTHS = 16
_NEARLY_FULL = 1.02


@exportable
@dataclass(eq=False)
class TextPacking(Planned):
    r"""
    Where each token of a flat batch stands in rows of several texts. Equal texts stand there once.

    All tensors are int64. Made by [`plan_texts`].

    Args:
        text_FC (`Tensor` of shape `(F, C)`):
            The text at each place, an index into the batch; -1 at an empty place. `(F, 1)` if each row holds one text:
            attention is then plainly causal, and what is beyond a text's end has no influence.
        position_FC (`Tensor` of shape `(F, C)` or `(1, C)`):
            The position of each place's token in its text; 0 at an empty place.
        last_T (`Tensor` of shape `(T,)`):
            The place, row · C + column, of each text's last token. Equal texts have the same.
        start_V (`Tensor` of shape `(T + F + 1,)`):
            The places where a text or an empty rest begins, ascending, and then F · C as often as needed for the fixed
            length. Kernels for variable lengths ask for it. Empty if each row holds one text.
    """

    text_FC: Tensor
    position_FC: Tensor
    last_T: Tensor
    start_V: Tensor

    @property
    def has_one_text_per_row(self) -> bool:
        """Whether each row holds one text."""
        return self.text_FC.shape[1] == 1

    @property
    def num_places(self) -> int:
        """The number of tokens that are computed, F · C."""
        return len(self.text_FC) * self.position_FC.shape[1]

    def mask(self) -> Tensor:
        """
        Returns which places each place attends to: itself and those before it in its own text, `(F, 1, C, C)` bool.

        Empty places attend to one another, because attention to nothing is NaN.
        """
        is_same_text_FCC = self.text_FC[:, :, None] == self.text_FC[:, None, :]
        return is_same_text_FCC.tril_()[:, None]


class PackedRows(NamedTuple):
    """Where [`pack_texts`] puts each text."""

    rows: list[int]
    """The row of each text."""
    columns: list[int]
    """The first column of each text."""
    filled: list[int]
    """The number of filled columns of each row."""


def text_lengths(input_ids_TL: Tensor, eos_token_id: int) -> Tensor:
    """
    Returns the number of tokens `(T,)` of each text, up to and including the one that CLIP pools.

    That is the first EOS or, by CLIP's legacy rule (for `eos_token_id` 2), the largest id. A text without EOS has 1.
    """
    if eos_token_id == 2:
        # Old configurations of CLIP name 2, which is not the tokenizer's EOS. Its EOS has the largest id.
        return input_ids_TL.argmax(dim=-1) + 1
    # The index of the first 1.
    return (input_ids_TL == eos_token_id).int().argmax(dim=-1) + 1


def pack_texts(lengths: Sequence[int], capacity: int) -> PackedRows:
    """
    Packs texts by first-fit decreasing: the longest text first, each into the first row that has room.

    Args:
        lengths: Tokens of each text, none more than `capacity`.
        capacity: Columns of a row.

    >>> pack_texts([3, 5, 2, 6], 8)
    PackedRows(rows=[1, 1, 0, 0], columns=[5, 0, 6, 0], filled=[8, 8])
    """
    rows = [0] * len(lengths)
    columns = [0] * len(lengths)
    filled: list[int] = []
    row = 0
    previous_length = 0
    for text in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[text]
        # A row without room for one text has no room for the next text of the same length: the search goes on from
        # there. It starts again where texts become shorter.
        if length != previous_length:
            row = 0
            previous_length = length
        while row < len(filled) and filled[row] + length > capacity:
            row += 1
        if row == len(filled):
            filled.append(0)
        rows[text] = row
        columns[text] = filled[row]
        filled[row] += length
    return PackedRows(rows, columns, filled)


def plan_texts(
    input_ids_TL: Tensor,
    lengths_T: Tensor,
    is_long_T: Tensor | None = None,
    *,
    capacity: int | None = None,
    row_multiple: int = 1,
    one_text_per_row: bool = False,
) -> TextPacking:
    r"""
    Plans how a model encodes a flat batch of texts, from their lengths and from which of them are equal.

    It runs on the CPU, so that the plan is ready before the batch reaches the GPU.

    Args:
        input_ids_TL (`Tensor` of shape `(T, L)`): Token ids, on the CPU. What follows a text's end is not read.
        lengths_T (`Tensor` of shape `(T,)`, int64): From [`text_lengths`], on the CPU.
        is_long_T (`Tensor` of shape `(T,)`, bool, *optional*):
            Which texts take the long path of a model with two. Texts on different paths are never equal.
        capacity (`int`, *optional*):
            Columns of a row, for shapes that stay the same from batch to batch: rounded up to a multiple of 16, and
            wide enough for the longest text. By default what costs least, which may be one text in each row.
        row_multiple (`int`): The number of rows is rounded up to a multiple of it, by empty rows.
        one_text_per_row (`bool`): For attention that cannot keep the texts of a row apart.

    Returns:
        The plan. It does not check whether a text is longer than a model's positions.

    Raises:
        ValueError: if `capacity` or `row_multiple` is below 1.
    """
    if row_multiple < 1 or (capacity is not None and capacity < 1):
        raise ValueError(f"capacity and row_multiple must be at least 1, but are {capacity} and {row_multiple}")
    text_U, copy_T = _without_repetitions(input_ids_TL, lengths_T, is_long_T)
    length_U = lengths_T[text_U]
    lengths = length_U.tolist()
    longest = max(lengths, default=1)
    columns = _cheapest_columns(lengths) if capacity is None else _aligned(max(capacity, longest))
    if one_text_per_row or columns is None:
        last_U = torch.arange(len(lengths)) * longest + length_U - 1
        return TextPacking(
            text_FC=text_U[:, None],
            position_FC=torch.arange(longest)[None],
            last_T=last_U[copy_T],
            start_V=torch.arange(0),
        )
    return _packed_plan(text_U, copy_T, length_U, columns, row_multiple)


def unplanned_packing(num_texts: int, num_columns: int, lengths_T: Tensor) -> TextPacking:
    """
    Returns a packing that depends on the values of nothing but lengths, so that a graph can hold it.

    Each text has a row of its own, and equal texts are encoded as often as they occur.

    Args:
        num_texts: T.
        num_columns: Columns of a row, at least the length of the longest text.
        lengths_T (`Tensor` of shape `(T,)`, int64): From [`text_lengths`], on the device of the graph.
    """
    text_T = torch.arange(num_texts, device=lengths_T.device)
    return TextPacking(
        text_FC=text_T[:, None],
        position_FC=torch.arange(num_columns, device=lengths_T.device)[None],
        last_T=text_T * num_columns + lengths_T - 1,
        start_V=text_T[:0],
    )


def _packed_plan(text_U: Tensor, copy_T: Tensor, length_U: Tensor, columns: int, row_multiple: int) -> TextPacking:
    """Plans rows of several texts; the arguments are those of [`_without_repetitions`] and [`plan_texts`]."""
    packed = pack_texts(length_U.tolist(), columns)
    num_empty_rows = -len(packed.filled) % row_multiple
    filled = packed.filled + [0] * num_empty_rows
    num_places = len(filled) * columns

    text_starts = [row * columns + column for row, column in zip(packed.rows, packed.columns, strict=True)]
    rest_starts = [row * columns + column for row, column in enumerate(filled) if column < columns]
    # The number of starts depends on nothing but T and F, so that shapes stay the same from batch to batch.
    num_starts = len(copy_T) + len(filled) + 1
    ends = [num_places] * (num_starts - len(text_starts) - len(rest_starts))

    # The tokens of all texts one after the other: the position of each in its text, and its place in the rows.
    first_token_U = length_U.cumsum(0) - length_U
    start_U = torch.tensor(text_starts, dtype=torch.int64)
    position_Z = torch.arange(int(length_U.sum())) - first_token_U.repeat_interleave(length_U)
    place_Z = start_U.repeat_interleave(length_U) + position_Z
    position_FC = torch.zeros(num_places, dtype=torch.int64).scatter_(0, place_Z, position_Z)
    text_FC = torch.full((num_places,), -1).scatter_(0, place_Z, text_U.repeat_interleave(length_U))
    return TextPacking(
        text_FC=text_FC.view(-1, columns),
        position_FC=position_FC.view(-1, columns),
        last_T=(start_U + length_U - 1)[copy_T],
        start_V=torch.tensor(sorted(text_starts + rest_starts) + ends, dtype=torch.int64),
    )


def _without_repetitions(ids_TL: Tensor, lengths_T: Tensor, is_long_T: Tensor | None) -> tuple[Tensor, Tensor]:
    """
    Finds equal texts.

    Returns:
        The first text of each kind `(U,)`, an index into the batch, and for each text which of these it equals `(T,)`.
    """
    ids = ids_as_array(ids_TL)
    is_long = [False] * len(ids) if is_long_T is None else is_long_T.tolist()
    number_of_text: dict[tuple[bool, bytes], int] = {}
    first_texts: list[int] = []
    copies: list[int] = []
    for text, length in enumerate(lengths_T.tolist()):
        key = (is_long[text], ids[text, :length].tobytes())
        number = number_of_text.setdefault(key, len(first_texts))
        if number == len(first_texts):
            first_texts.append(text)
        copies.append(number)
    return torch.tensor(first_texts, dtype=torch.int64), torch.tensor(copies, dtype=torch.int64)


def ids_as_array(ids_TL: Tensor) -> np.ndarray:
    """Returns token ids as an array: the bytes of its rows are the fastest keys of a dictionary for many texts."""
    try:
        return ids_TL.contiguous().numpy()
    except RuntimeError:
        # Inside a transform of `torch.func` a tensor has no storage to read from.
        return np.array(ids_TL.tolist())


def _cheapest_columns(lengths: list[int]) -> int | None:
    """Returns the columns of a row by which texts cost least; `None` for one text in each row."""
    longest = max(lengths, default=1)
    cheapest = None
    least_cost = _cost(len(lengths), longest)
    step = _aligned((_WIDEST - 1) * longest // _WIDTHS + 1)
    for width in range(_aligned(longest), _WIDEST * longest + 1, step):
        filled = pack_texts(lengths, width).filled
        # The fullest row may be narrower than what was allowed.
        columns = _aligned(max(filled, default=1))
        cost = _cost(len(filled), columns)
        if cost < least_cost:
            cheapest, least_cost = columns, cost
        if len(filled) * columns <= _NEARLY_FULL * sum(lengths):
            break
    return cheapest


def _cost(rows: int, columns: int) -> float:
    """Returns what a plan costs to compute, in places of a short row."""
    return rows * columns * (1 + columns / _ATTENTION_DOUBLES_AT)


def _aligned(columns: int) -> int:
    """Rounds up to a multiple of the alignment."""
    return -(-columns // _ALIGNMENT) * _ALIGNMENT


__all__ = ["PackedRows", "TextPacking", "ids_as_array", "pack_texts", "plan_texts", "text_lengths", "unplanned_packing"]
