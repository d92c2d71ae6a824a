"""Flat rows that belong to images, laid out by image where a kernel wants one block per image.

Letters: B images, N flat rows, K slots: rows of the fullest image.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor


class Planned:
    """
    What is worked out on the CPU from the sizes and indices of a batch, as a dataclass of tensors, numbers and other
    such parts. A worker of the data loader can make it, and the loader pins and moves it like the batch.
    """

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        return self._each("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Self:
        return self._each("pin_memory")

    def _each(self, method: str, *args: Any, **kwargs: Any) -> Self:
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        moved = [getattr(v, method)(*args, **kwargs) if isinstance(v, Tensor | Planned) else v for v in values]
        return type(self)(*moved)


@dataclass(frozen=True, eq=False)
class ImageSlots(Planned):
    """
    A place for each of N flat rows in a block of one row per image. Made by [`slots_by_image`].

    Args:
        place_N (`Tensor` of shape `(N,)`, int64): image · K + the number of the row among those of its image.
        num_slots (`int`): K.
    """

    place_N: Tensor
    num_slots: int

    def block(self, rows_N: Tensor, num_images: int) -> Tensor:
        """Rows `(N, ...)` as `(B, K, ...)`; 0 where there is none."""
        block = rows_N.new_zeros(num_images * self.num_slots, *rows_N.shape[1:])
        return block.index_copy(0, self.place_N, rows_N).view(num_images, self.num_slots, *rows_N.shape[1:])

    def rows(self, block_BK: Tensor) -> Tensor:
        """The rows `(N, ...)` of a block `(B, K, ...)`."""
        return block_BK.flatten(0, 1).index_select(0, self.place_N)


@torch.compiler.disable
def slots_by_image(image_index_N: Tensor, num_images: int) -> ImageSlots:
    """
    Slots for N flat rows; a wait where they are on a GPU.

    Args:
        image_index_N (`Tensor` of shape `(N,)`, int64): the image of each row, in any order.
        num_images (`int`): images, with rows or without.

    >>> slots_by_image(torch.tensor([0, 2, 0, 0, 2]), 3)
    ImageSlots(place_N=tensor([0, 6, 1, 2, 7]), num_slots=3)
    """
    counts_B = torch.bincount(image_index_N, minlength=num_images)
    order_N = torch.argsort(image_index_N, stable=True)
    first_B = counts_B.cumsum(0) - counts_B
    ranks_N = torch.arange(len(order_N), device=order_N.device) - first_B[image_index_N[order_N]]
    num_slots = int(counts_B.max())
    return ImageSlots(image_index_N * num_slots + torch.empty_like(order_N).scatter_(0, order_N, ranks_N), num_slots)


def index_or_pairs(
    image_index: Tensor | None, num_images: int, num_rows: int, rows: str, device: torch.device
) -> Tensor:
    """The image of each row; where none is given, rows and images in pairs, or all rows on the one image."""
    if image_index is not None:
        return image_index
    if num_images not in (1, num_rows):
        raise ValueError(
            f"without an image index there must be one image, or one for each of the {rows}, "
            f"but there are {num_images} images and {num_rows} {rows}"
        )
    return torch.arange(num_rows, device=device) % num_images


__all__ = ["ImageSlots", "Planned", "index_or_pairs", "slots_by_image"]
