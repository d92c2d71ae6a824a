"""Texts of any mix of lengths in full rows: which token stands where, planned on the CPU before the batch is computed.

Letters: T texts (flat), L tokens, U texts without their repetitions, N tokens of these, R rows, C columns of a row,
S stretches of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .ragged_beta_clip import Planned


# Columns come in multiples of this: masks of other widths are copied by the kernels, in every layer.
_ALIGNMENT = 16
# A place in a row of this many columns costs twice what it costs in a short one, as it attends to the whole row. It
# only decides between plans that are nearly equal.
_ATTENTION_DOUBLES_AT = 2048
# Rows of the longest text's width to four times that are tried, until one width leaves nearly no place empty.
_WIDTHS, _WIDEST, _NEARLY_FULL = 16, 4, 1.02


@dataclass(frozen=True, eq=False)
class TextPacking(Planned):
    r"""
    Where each token of a flat batch stands in rows of texts, each text once: four int64 tensors. Made by
    [`plan_texts`].

    Args:
        text_RC (`Tensor` of shape `(R, C)`):
            The text at each place, an index into the batch, or -1 where there is none. `(R, 1)` if each row holds one
            text: attention is then plainly causal, and what is beyond a text's end has no influence.
        position_RC (`Tensor` of shape `(R, C)` or `(1, C)`): which token of its text stands there; 0 where none does.
        last_T (`Tensor` of shape `(T,)`):
            The place, row · C + column, of each text's last token; the same for equal texts.
        start_S (`Tensor` of shape `(T + R + 1,)`):
            The places where a text or a stretch of none begins, ascending, and then R · C as often as it takes: what
            kernels for variable lengths ask for. Empty if each row holds one text.
    """

    text_RC: Tensor
    position_RC: Tensor
    last_T: Tensor
    start_S: Tensor

    @property
    def has_one_text_per_row(self) -> bool:
        return self.text_RC.shape[1] == 1

    @property
    def num_places(self) -> int:
        """Tokens that are computed, R · C."""
        return len(self.text_RC) * self.position_RC.shape[1]

    def mask(self) -> Tensor:
        """Which places each place attends to, `(R, 1, C, C)` bool: itself and those before it in its own text. Places
        without a text attend to one another, for attention to nothing is NaN."""
        return (self.text_RC[:, :, None] == self.text_RC[:, None, :]).tril_()[:, None]


def text_lengths(input_ids_TL: Tensor, eos_token_id: int) -> Tensor:
    """Tokens `(T,)` up to and including the one that CLIP pools: the first EOS or, by its legacy rule (EOS 2), the
    largest id. A text without EOS has 1."""
    ids = input_ids_TL if eos_token_id == 2 else (input_ids_TL == eos_token_id).int()
    return ids.argmax(dim=-1) + 1


def pack_texts(lengths: Sequence[int], capacity: int) -> tuple[list[int], list[int], list[int]]:
    """
    First-fit decreasing: the longest text first, each into the first row that has room.

    Args:
        lengths: tokens of each text, none more than `capacity`.
        capacity: columns of a row.

    Returns:
        The row and the first column of each text, and how many columns of each row are filled.

    >>> pack_texts([3, 5, 2, 6], 8)
    ([1, 1, 0, 0], [5, 0, 6, 0], [8, 8])
    """
    rows, columns = [0] * len(lengths), [0] * len(lengths)
    filled: list[int] = []
    row, previous = 0, 0
    for text in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[text]
        if length != previous:  # a row without room for one text of a length has none for the next of that length
            row, previous = 0, length
        while row < len(filled) and filled[row] + length > capacity:
            row += 1
        if row == len(filled):
            filled.append(0)
        rows[text], columns[text] = row, filled[row]
        filled[row] += length
    return rows, columns, filled


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
    The plan by which a model encodes a flat batch of texts; made on the CPU, from lengths and equal texts alone.

    Args:
        input_ids_TL (`Tensor` of shape `(T, L)`): token ids, on the CPU. What stands behind a text's end is not read.
        lengths_T (`Tensor` of shape `(T,)`, int64): from [`text_lengths`], on the CPU.
        is_long_T (`Tensor` of shape `(T,)`, bool, *optional*):
            Which texts take the long path of a model with two. Texts on different paths are never equal.
        capacity (`int`, *optional*):
            Columns of a row, for shapes that stay the same from batch to batch: rounded up to a multiple of 16, and
            wide enough for the longest text. By default what costs least, be it one text in each row.
        row_multiple (`int`): the number of rows is rounded up to a multiple of it, by empty rows.
        one_text_per_row (`bool`): for attention that cannot keep the texts of a row apart.

    Returns:
        The plan. Whether a text is longer than a model's positions is not looked at.

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
        return TextPacking(text_U[:, None], torch.arange(longest)[None], last_U[copy_T], torch.arange(0))

    rows, first_columns, filled = pack_texts(lengths, columns)
    filled += [0] * (-len(filled) % row_multiple)
    places = len(filled) * columns
    starts = [row * columns + column for row, column in zip(rows, first_columns, strict=True)]
    rests = [row * columns + column for row, column in enumerate(filled) if column < columns]
    ends = [places] * (len(copy_T) + len(filled) + 1 - len(starts) - len(rests))
    start_U = torch.tensor(starts, dtype=torch.int64)
    position_N = torch.arange(sum(lengths)) - (length_U.cumsum(0) - length_U).repeat_interleave(length_U)
    place_N = start_U.repeat_interleave(length_U) + position_N
    position_RC = torch.zeros(places, dtype=torch.int64).scatter_(0, place_N, position_N)
    text_RC = torch.full((places,), -1).scatter_(0, place_N, text_U.repeat_interleave(length_U))
    return TextPacking(
        text_RC=text_RC.view(-1, columns),
        position_RC=position_RC.view(-1, columns),
        last_T=(start_U + length_U - 1)[copy_T],
        start_S=torch.tensor(sorted(starts + rests) + ends, dtype=torch.int64),
    )


def _without_repetitions(ids_TL: Tensor, lengths_T: Tensor, is_long_T: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first of the texts that are equal to it, `(U,)`, and which of these each text is, `(T,)`."""
    ids, seen = ids_TL.numpy(), dict[tuple[bool, bytes], int]()
    is_long = [False] * len(ids) if is_long_T is None else is_long_T.tolist()
    firsts: list[int] = []
    copies: list[int] = []
    for text, length in enumerate(lengths_T.tolist()):
        number = seen.setdefault((is_long[text], ids[text, :length].tobytes()), len(firsts))
        if number == len(firsts):
            firsts.append(text)
        copies.append(number)
    return torch.tensor(firsts, dtype=torch.int64), torch.tensor(copies, dtype=torch.int64)


def _cheapest_columns(lengths: list[int]) -> int | None:
    """Columns of a row by which the texts cost least; `None` for one text in each row."""
    longest = max(lengths, default=1)
    cheapest, least = None, _cost(len(lengths), longest)
    for width in range(_aligned(longest), _WIDEST * longest + 1, _aligned((_WIDEST - 1) * longest // _WIDTHS + 1)):
        filled = pack_texts(lengths, width)[2]
        columns = _aligned(max(filled, default=1))
        if _cost(len(filled), columns) < least:
            cheapest, least = columns, _cost(len(filled), columns)
        if len(filled) * columns <= _NEARLY_FULL * sum(lengths):
            break
    return cheapest


def _cost(rows: int, columns: int) -> float:
    return rows * columns * (1 + columns / _ATTENTION_DOUBLES_AT)


def _aligned(columns: int) -> int:
    return -(-columns // _ALIGNMENT) * _ALIGNMENT


__all__ = ["TextPacking", "pack_texts", "plan_texts", "text_lengths"]
