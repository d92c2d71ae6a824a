"""Copies of an image: they have the scores of the first of them, so that they are tied exactly."""

import torch
from torch import Tensor


def first_copies(digests_B32: Tensor) -> Tensor:
    """Returns for each image the index of the first image with the same digest, (B,) int64."""
    distinct, place_B = digests_B32.unique(dim=0, return_inverse=True)
    images_B = torch.arange(len(place_B))
    first_of_distinct = images_B.new_full((len(distinct),), len(images_B))
    return first_of_distinct.scatter_reduce(0, place_B, images_B, "amin")[place_B]


def with_first_copies(values: Tensor, digests_B32: Tensor) -> Tensor:
    """Returns values of B images, (B, …), in which all copies of an image have those of the first of them."""
    first_B = first_copies(digests_B32)
    has_copies = not torch.equal(first_B, torch.arange(len(first_B)))
    return values[first_B] if has_copies else values
