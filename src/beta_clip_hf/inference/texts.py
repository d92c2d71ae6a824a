"""Encodes texts without gradients: packed into rows where the model can, else padded to the longest of a batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .models import evaluation_mode, text_inputs
from .shards import split


# What a block of the text tower computes for this many tokens still fits into the caches of a core.
TOKENS_AT_A_TIME_ON_CPU = 2048


def packed_features(
    model: Any,
    processor: Any,
    texts: list[str],
    path: str | None,
    *,
    batch_size: int,
    on_encoded: Callable[[int], Any],
) -> Tensor:
    """
    Encodes texts in rows of several texts. Those of equal tokens are encoded once.

    Args:
        model, processor: A `BetaCLIPModel` and its processor.
        texts: T texts.
        path: Text path of a model with two, "short" or "long".
        batch_size: A batch has at most as many tokens as this number of texts of full length.
        on_encoded: Is told how many texts have been encoded, batch by batch.

    Returns:
        (T, D), not normalised, in the model's dtype and on its device.
    """
    inputs = text_inputs(model, processor, texts, path)
    ids_UL, place_T = inputs["input_ids"].unique(dim=0, return_inverse=True)
    length_U = model.text_lengths(ids_UL)
    # Sorted, so that the rows of a batch are as wide as its longest text and hardly wider.
    order_U = length_U.argsort(stable=True)
    device = model.device
    features = []
    for text_V in _token_batches(order_U, length_U[order_U], _tokens_at_a_time(model, path, batch_size)):
        ids_VL = ids_UL[text_V, : int(length_U[text_V].max())]
        is_long_V = torch.full((len(text_V),), path == "long")
        # Planned on the CPU: the model would wait for a GPU to plan by itself.
        packing = model.plan_texts(ids_VL, is_long_V)
        with evaluation_mode(model):
            features.append(model.encode_texts(ids_VL.to(device), is_long_V.to(device), packing))
        on_encoded(len(text_V))
    on_encoded(len(texts) - len(order_U))
    # The place of each distinct text in the batches, one after the other.
    batch_place_U = order_U.argsort()
    return torch.cat(features)[batch_place_U[place_T].to(device)]


def padded_features(
    model: Any,
    processor: Any,
    texts: list[str],
    path: str | None,
    *,
    batch_size: int,
    on_encoded: Callable[[int], Any],
) -> Tensor:
    """
    Encodes texts of any model in padded batches of `batch_size` texts.

    Arguments and result are those of [`packed_features`].
    """
    # Only models of ours have text paths; others do not know the argument.
    options = {} if path is None else {"path": path}
    features = []
    for batch in split(texts, batch_size):
        inputs = text_inputs(model, processor, batch, path).to(model.device)
        with evaluation_mode(model):
            features.append(model.get_text_features(**inputs, **options).pooler_output)
        on_encoded(len(batch))
    return torch.cat(features)


def _tokens_at_a_time(model: Any, path: str | None, batch_size: int) -> int:
    """Returns the largest number of tokens of a batch of packed texts."""
    positions = model.config.text_config.max_position_embeddings
    if path == "long":
        positions = model.config.long_text_max_position_embeddings
    tokens: int = batch_size * positions
    return min(tokens, TOKENS_AT_A_TIME_ON_CPU) if model.device.type == "cpu" else tokens


def _token_batches(text_U: Tensor, length_U: Tensor, most_tokens: int) -> Iterator[Tensor]:
    """Yields consecutive texts that have at most `most_tokens` tokens together, but at least one text."""
    end_U = length_U.cumsum(0)
    first = 0
    num_before = 0
    while first < len(text_U):
        stop = int(torch.searchsorted(end_U, num_before + most_tokens, right=True))
        stop = max(stop, first + 1)
        yield text_U[first:stop]
        first = stop
        num_before = int(end_U[stop - 1])
