# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows the text tower of SigLIP 2 computes for a flat batch: each different text once, at its own length."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .batch_beta_clip import BatchTexts, TextNegatives
from .configuration_beta_siglip2 import SIGLIP_TEXT_PATHS
from .packing_beta_clip import ids_as_array
from .ragged_beta_clip import Planned, exportable


# The numbers of the paths, in the order of `SIGLIP_TEXT_PATHS`.
SHORT, LONG, BOX = range(3)


@exportable
@dataclass(eq=False)
class TextRows(Planned):
    r"""
    Says which texts of a flat batch the tower computes, and where each text finds its features. Made by [`plan_rows`].

    The short and the box path differ in their heads alone, so a text that takes both is computed once. All tensors are
    int64.

    Args:
        short_U (`Tensor` of shape `(U,)`): The different texts of the short and the box path, indices into the batch.
        long_U (`Tensor` of shape `(U,)`): Those of the long path.
        short_head_U, box_head_U (`Tensor`): Which of `short_U` each of the two heads turns into features.
        feature_T (`Tensor` of shape `(T,)`):
            The features of each text among those of the short, the long and the box head, in this order.
    """

    short_U: Tensor
    long_U: Tensor
    short_head_U: Tensor
    box_head_U: Tensor
    feature_T: Tensor

    @property
    def num_texts(self) -> int:
        """T."""
        return len(self.feature_T)


def plan_rows(input_ids_TL: Tensor, path_T: Tensor, short_length: int) -> TextRows:
    """
    Finds the different texts of a batch, on the CPU, where the arguments are.

    Args:
        input_ids_TL (`Tensor` of shape `(T, L)`): Token ids, padded to the positions of the longest path.
        path_T (`Tensor` of shape `(T,)`, int64): The path of each text, an index into `SIGLIP_TEXT_PATHS`.
        short_length: Positions of the short and the box path: of the texts there the first columns count.
    """
    ids = ids_as_array(input_ids_TL)
    trunks: dict[bool, dict[bytes, int]] = {False: {}, True: {}}
    first_texts: dict[bool, list[int]] = {False: [], True: []}
    # The rows that each head reads, and the place of each among the head's features.
    heads: list[dict[int, int]] = [{}, {}, {}]
    places = []
    paths = path_T.tolist()
    for text, path in enumerate(paths):
        is_long = path == LONG
        key = (ids[text] if is_long else ids[text, :short_length]).tobytes()
        row = trunks[is_long].setdefault(key, len(first_texts[is_long]))
        if row == len(first_texts[is_long]):
            first_texts[is_long].append(text)
        places.append(heads[path].setdefault(row, len(heads[path])))
    first_place = (0, len(heads[SHORT]), len(heads[SHORT]) + len(heads[LONG]))
    return TextRows(
        short_U=_indices(first_texts[False]),
        # The long head reads its rows in the order in which they are computed.
        long_U=_indices(first_texts[True]),
        short_head_U=_indices(list(heads[SHORT])),
        box_head_U=_indices(list(heads[BOX])),
        feature_T=_indices([first_place[path] + place for path, place in zip(paths, places, strict=True)]),
    )


def plan_batch_rows(texts: BatchTexts, granularity_T: Tensor | None, config: Any) -> TextRows:
    """
    Plans all texts of a flat batch, see [`plan_rows`].

    Args:
        texts: The texts, on any device.
        granularity_T (`Tensor` of shape `(T,)`, int64, *optional*): The kind of each text, on the CPU. Without it all
            texts take the short path.
        config (`BetaSiglip2Config` or `BetaSiglip2Processor`): Says which path each kind takes.

    Raises:
        ValueError: If the texts have fewer columns than a path of theirs has positions.
    """
    num_texts = texts.input_ids.shape[0]
    path_T = torch.full((num_texts,), SHORT)
    if granularity_T is not None:
        path_of_kind = torch.tensor([SIGLIP_TEXT_PATHS.index(path) for path in config.text_path_of_kind])
        path_T = path_of_kind[granularity_T]
    if texts.negatives is not None:
        negatives = TextNegatives(texts.negatives.input_ids, texts.negatives.text_index.cpu())
        texts = replace(texts, negatives=negatives)
    path_T = texts.of_joined(path_T, BOX)
    all_ids = texts.all_ids()
    for ids, paths in zip(all_ids, path_T.split(texts.counts), strict=True):
        for number in paths.unique().tolist():
            _check_columns(ids, SIGLIP_TEXT_PATHS[number], config)
    return plan_rows(texts.joined().cpu(), path_T, config.text_positions("short"))


def _check_columns(input_ids: Any, path: str, config: Any) -> None:
    """Raises `ValueError` for texts that are shorter than their path."""
    length = config.text_positions(path)
    if input_ids.shape[1] < length:
        raise ValueError(
            f"texts on the {path} path must have at least {length} columns, because padding is attended to, but have "
            f"{input_ids.shape[1]}: pad each text on the right"
        )


def _indices(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


__all__ = ["TextRows", "plan_batch_rows", "plan_rows"]
