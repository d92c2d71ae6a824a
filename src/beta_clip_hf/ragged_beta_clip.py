"""Flat rows that belong to images, laid out by image where a kernel wants one block per image."""

import torch
from torch import Tensor


def slots_by_image(image_index_N: Tensor, num_images: int) -> tuple[Tensor, int]:
    """
    Places for N flat rows in a block of `(num_images, slots, ...)`.

    Args:
        image_index_N (`Tensor` of shape `(N,)`, int64): the image of each row, in any order.
        num_images (`int`): images, with rows or without.

    Returns:
        The rank of each row among the rows of its image, `(N,)`, and the number of rows of the fullest image.

    >>> slots_by_image(torch.tensor([0, 2, 0, 0, 2]), 3)
    (tensor([0, 0, 1, 2, 1]), 3)
    """
    counts_B = torch.bincount(image_index_N, minlength=num_images)
    order_N = torch.argsort(image_index_N, stable=True)
    first_B = counts_B.cumsum(0) - counts_B
    ranks_N = torch.arange(len(order_N), device=order_N.device) - first_B[image_index_N[order_N]]
    return torch.empty_like(order_N).scatter_(0, order_N, ranks_N), int(counts_B.max())


__all__ = ["slots_by_image"]
