# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Flat rows that belong to images, laid out by image where a kernel wants one block per image."""

from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import torch
from torch import Tensor


class Planned:
    """
    Base of dataclasses that hold what the CPU works out from the sizes and indices of a batch.

    The fields are tensors, numbers, and other such dataclasses. A worker of the data loader can make one; the loader
    pins and moves it like the rest of the batch. With [`exportable`] it is also an input of exported programs. It is
    not frozen, because transformers' exporters replace the tensors of inputs.
    """

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """Moves all tensors to a device."""
        return self._map_tensors("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Self:
        """Copies all tensors to pinned memory, from which they move to a GPU without a wait."""
        return self._map_tensors("pin_memory")

    def _map_tensors(self, method: str, *args: Any, **kwargs: Any) -> Self:
        """Calls a method of every tensor, and of every part that is planned itself."""
        values = []
        for field in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, Tensor | Planned):
                value = getattr(value, method)(*args, **kwargs)
            values.append(value)
        return type(self)(*values)


PlannedClass = TypeVar("PlannedClass", bound=type[Planned])


def exportable(cls: PlannedClass) -> PlannedClass:
    """Lets a dataclass of planned things be an input of programs that `torch.export` makes."""
    # torch before 2.7 warns of its own function here, and transformers' exporters need a newer one.
    if hasattr(torch.compiler, "is_exporting"):
        # By its full name: code that came with a model has classes of the same names.
        torch.export.register_dataclass(cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
    return cls


@exportable
@dataclass(eq=False)
class ImageSlots(Planned):
    """
    The slots of M flat rows in a block that has one row per image. Made by [`slots_by_image`].

    Args:
        slot_M (`Tensor` of shape `(M,)`, int64): image · S + the number of the row among those of its image.
        num_slots (`int`): S, the rows of the fullest image.
    """

    slot_M: Tensor
    num_slots: int

    def block(self, rows_M: Tensor, num_images: int) -> Tensor:
        """Lays rows `(M, ...)` out as `(B, S, ...)`; a slot without a row is 0."""
        block = rows_M.new_zeros(num_images * self.num_slots, *rows_M.shape[1:])
        # Not in place: the rows keep their gradient.
        block = block.index_copy(0, self.slot_M, rows_M)
        return block.view(num_images, self.num_slots, *rows_M.shape[1:])

    def rows(self, block_BS: Tensor) -> Tensor:
        """Takes the rows `(M, ...)` out of a block `(B, S, ...)`."""
        return block_BS.flatten(0, 1).index_select(0, self.slot_M)


def slots_by_image(image_index_M: Tensor, num_images: int) -> ImageSlots:
    """
    Finds a slot for each of M flat rows. If the index is on a GPU, this waits for it.

    Args:
        image_index_M (`Tensor` of shape `(M,)`, int64): the image of each row, in any order.
        num_images (`int`): images, with rows or without.

    >>> slots_by_image(torch.tensor([0, 2, 0, 0, 2]), 3)
    ImageSlots(slot_M=tensor([0, 6, 1, 2, 7]), num_slots=3)
    """
    counts_B = torch.bincount(image_index_M, minlength=num_images)
    # A stable sort keeps the rows of an image in their order.
    order_M = torch.argsort(image_index_M, stable=True)
    first_B = counts_B.cumsum(0) - counts_B
    sorted_ranks_M = torch.arange(len(order_M), device=order_M.device) - first_B[image_index_M[order_M]]
    ranks_M = torch.empty_like(order_M).scatter_(0, order_M, sorted_ranks_M)
    num_slots = int(counts_B.max())
    return ImageSlots(image_index_M * num_slots + ranks_M, num_slots)


def index_or_pairs(
    image_index: Tensor | None, num_images: int, num_rows: int, rows: str, device: torch.device
) -> Tensor:
    """
    Returns the image of each row: the index, or a default where there is none.

    Args:
        image_index: Of each row, or `None`: rows and images are then pairs, or all rows belong to the one image.
        num_images, num_rows: How many there are.
        rows: What the error message calls the rows, for example "boxes".
        device: Where the default is made.

    Raises:
        ValueError: if an index on the CPU names no image, or does not name one for each row; without an index, if
            there is neither one image nor one for each row.
    """
    if image_index is not None:
        # A graph cannot depend on values, and those of a GPU would have to be waited for.
        if image_index.device.type == "cpu" and not torch.compiler.is_compiling():
            is_wrong = (image_index < 0) | (image_index >= num_images) | (image_index % 1 != 0)
            if image_index.shape != (num_rows,) or is_wrong.any():
                raise ValueError(
                    f"the image index must name one of the images 0..{num_images - 1} for each of the {num_rows} "
                    f"{rows}, but is {image_index.tolist()}"
                )
        return image_index.long()
    if num_images not in (1, num_rows):
        raise ValueError(
            f"without an image index there must be one image, or one for each of the {rows}, "
            f"but there are {num_images} images and {num_rows} {rows}"
        )
    return torch.arange(num_rows, device=device) % num_images


__all__ = ["ImageSlots", "Planned", "exportable", "index_or_pairs", "slots_by_image"]
