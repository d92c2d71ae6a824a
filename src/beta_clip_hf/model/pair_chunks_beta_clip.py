# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of images and texts, cut into chunks that are scored at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


# Pairs at a time: on a CPU as many as its caches hold, elsewhere as many as keep a GPU busy.
_PAIRS_ON_CPU = 1024
_PAIRS_ELSEWHERE = 32768


class PairChunk(NamedTuple):
    """Pairs that are scored together, with all images that are in them."""

    images: Tensor
    """The images, indices into all images."""
    pairs: Tensor
    """The pairs, indices into all pairs."""
    local_images: Tensor
    """The image of each of these pairs, an index into `images`."""


def chunks_of_pairs(image_M: Tensor, chunk_size: int, num_patches: int) -> Iterator[PairChunk]:
    """
    Yields all pairs in chunks of whole images.

    Args:
        image_M: The image of each pair.
        chunk_size: Pairs or patches that a chunk may hold, unless a single image has more.
        num_patches: P.
    """
    image_U, local_image_M, counts_U = torch.unique(image_M, return_inverse=True, return_counts=True)
    # Images with similar numbers of pairs come together, because a block has a slot for each pair of its fullest image.
    order_U = counts_U.argsort(descending=True)
    image_U = image_U[order_U]
    local_image_M = order_U.argsort()[local_image_M]
    counts = counts_U[order_U].tolist()
    sorted_pairs_M = local_image_M.argsort()

    first_image = 0
    first_pair = 0
    while first_pair < len(sorted_pairs_M):
        # The first image of a chunk is its fullest.
        num_images = max(1, chunk_size // max(counts[first_image], num_patches))
        end_image = first_image + num_images
        end_pair = first_pair + sum(counts[first_image:end_image])
        pairs = sorted_pairs_M[first_pair:end_pair]
        yield PairChunk(image_U[first_image:end_image], pairs, local_image_M[pairs] - first_image)
        first_image = end_image
        first_pair = end_pair


def pairs_at_a_time(chunk_size: int | None, embeds: Tensor) -> int:
    """Returns the chunk size, or the default for the device."""
    if chunk_size is None:
        return _PAIRS_ON_CPU if embeds.device.type == "cpu" else _PAIRS_ELSEWHERE
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 pair, but is {chunk_size}")
    return chunk_size


def empty_scores(shape: tuple[int, ...], text_embeds: Tensor) -> Tensor:
    """Allocates scores in at least float32."""
    return text_embeds.new_empty(shape, dtype=torch.promote_types(text_embeds.dtype, torch.float32))


def slices_of_size(total: int, size: int) -> list[slice]:
    """Cuts `range(total)` into slices of a size; a size below 1 counts as 1."""
    size = max(1, size)
    return [slice(first, first + size) for first in range(0, total, size)]


def check_index(name: str, index: Tensor, count: int) -> None:
    """Raises `ValueError` if an index is negative, or not below the number of rows."""
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise ValueError(f"{name} must be in 0..{count - 1}, but is {int(wrong[0])}")


def joined_pairs(image_index: Tensor, text_index: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Returns image and text of each of M pairs, both `(M,)`, and the common shape that the indices came in."""
    try:
        shape = torch.broadcast_shapes(image_index.shape, text_index.shape)
    except RuntimeError as error:
        shapes = f"{tuple(image_index.shape)} and {tuple(text_index.shape)}"
        raise ValueError(f"image_index and text_index must broadcast, but have shapes {shapes}") from error
    return image_index.expand(shape).flatten(), text_index.expand(shape).flatten(), shape


__all__ = [
    "PairChunk",
    "check_index",
    "chunks_of_pairs",
    "empty_scores",
    "joined_pairs",
    "pairs_at_a_time",
    "slices_of_size",
]
