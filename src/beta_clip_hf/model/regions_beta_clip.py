# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Region features: RoIAlign of the patch features to one vector per box, in plain torch."""

from typing import Any

import torch
from torch import Tensor

from .boxes_beta_clip import BOX_FORMATS
from .patch_map_beta_clip import PatchMap
from .ragged_beta_clip import ImageSlots, slots_by_image


# Rows and columns, or height and width: of all images, or those of the image of each box, `(R, 2)`.
Sides = tuple[int, int] | Tensor


def grid_boxes(boxes_R4: Tensor, box_format: str, image_size: Sides, grid: Sides) -> Tensor:
    """
    Converts boxes to units of the patch grid, x1 y1 x2 y2.

    Args:
        boxes_R4 (`Tensor` of shape `(R, 4)`): in `box_format`.
        box_format (`str`): "xyxy_normalized" (shares of the image's sides), "xyxy_pixels" or "xywh_pixels".
        image_size, grid: height and width in pixels and in patches, of all images, or `(R, 2)` for each box.

    Raises:
        ValueError: if the format is unknown or the boxes are not `(R, 4)`.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format must be one of {BOX_FORMATS}, but is {box_format!r}")
    boxes_R4 = checked_boxes(boxes_R4)
    if box_format == "xywh_pixels":
        corners_R2, sizes_R2 = boxes_R4[:, :2], boxes_R4[:, 2:]
        boxes_R4 = torch.cat([corners_R2, corners_R2 + sizes_R2], dim=1)
    y_scale, x_scale = _columns_of(grid)
    if box_format != "xyxy_normalized":
        height, width = _columns_of(image_size)
        x_scale, y_scale = x_scale / width, y_scale / height
    return torch.stack([boxes_R4[:, 0::2] * x_scale, boxes_R4[:, 1::2] * y_scale], dim=2).flatten(1)


def checked_boxes(boxes: Tensor) -> Tensor:
    """Returns boxes `(R, 4)`; an empty list of them, which has no shape of its own, is `(0, 4)`.

    Raises:
        ValueError: if the boxes are not `(R, 4)`.
    """
    if boxes.ndim == 1 and boxes.shape[0] == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (R, 4), but are {tuple(boxes.shape)}")
    return boxes


def _columns_of(sides: Sides) -> tuple[Any, Any]:
    """Returns two numbers, or two tensors of shape `(R, 1)`."""
    if isinstance(sides, Tensor):
        first_R1, second_R1 = sides.split(1, dim=1)
        return first_R1, second_R1
    return sides


def roi_align(
    patch_features_BPD: Tensor,
    boxes_R4: Tensor,
    image_index_R: Tensor,
    grid: tuple[int, int],
    slots: ImageSlots | None = None,
) -> Tensor:
    r"""
    Pools each box by RoIAlign to 1 × 1 (aligned, adaptive sampling): the mean of bilinear samples at ⌈height⌉ × ⌈width⌉
    points of the box.

    A sample more than one cell beyond the map counts as 0 and stays in the mean; boxes are never clipped; a box without
    area is exactly 0.

    Args:
        patch_features_BPD (`Tensor` of shape `(B, P, D)`): row-major over the grid.
        boxes_R4 (`Tensor` of shape `(R, 4)`): x1 y1 x2 y2 in grid units: (0, 0, columns, rows) is the whole map.
        image_index_R (`Tensor` of shape `(R,)`, int64): the image of each box, in any order.
        grid (`tuple[int, int]`): rows and columns of the patch grid.
        slots (*optional*): what [`slots_by_image`] makes of `image_index`. Without it, this waits for a GPU; a compiled
            graph copies the patches of each box's image.

    Returns:
        `(R, D)`, of the features' dtype. No boxes give no rows.

    Source: He et al. 2017 (RoIAlign), with the settings of FG-CLIP (arXiv 2505.05071).
    """
    if boxes_R4.shape[0] == 0:
        return patch_features_BPD.new_zeros(0, patch_features_BPD.shape[-1])
    # Samples of half precision would miss their cells.
    boxes_R4 = boxes_R4.to(torch.promote_types(patch_features_BPD.dtype, torch.float32))
    rows, columns = grid
    # Samples stand on a lattice, and bilinear weights are a product of one weight per axis. So the mean over samples is
    # a product too, of a weight per row and a weight per column of the grid: each box is one row of a matrix over the
    # patches.
    column_weights = _axis_weights(boxes_R4[:, 0], boxes_R4[:, 2], columns)
    row_weights = _axis_weights(boxes_R4[:, 1], boxes_R4[:, 3], rows)
    weights_RP = (row_weights[:, :, None] * column_weights[:, None, :]).flatten(1).to(patch_features_BPD.dtype)
    num_images = len(patch_features_BPD)
    if slots is None and torch.compiler.is_compiling():
        # A graph cannot hold a block whose size is read from the data, so each box gets a copy of its image's patches.
        return (weights_RP[:, None] @ patch_features_BPD[image_index_R])[:, 0]
    if slots is None:
        slots = slots_by_image(image_index_R, num_images)
    # All boxes of an image are one product with its patches, which are not copied for each box.
    return slots.rows(slots.block(weights_RP, num_images) @ patch_features_BPD)


def roi_align_of_map(
    patches: PatchMap, boxes_R4: Tensor, image_index_R: Tensor, slots: ImageSlots | None = None
) -> Tensor:
    r"""
    Pools each box as [`roi_align`] does, from images whose grids differ. All images are pooled at once.

    Args:
        patches: The patch features of B images.
        boxes_R4 (`Tensor` of shape `(R, 4)`): x1 y1 x2 y2 in grid units of the image of the box.
        image_index_R (`Tensor` of shape `(R,)`, int64): the image of each box, in any order.
        slots (*optional*): what [`slots_by_image`] makes of `image_index`. Without it, this waits for a GPU.

    Returns:
        `(R, D)`, of the features' dtype. No boxes give no rows.
    """
    features_BPD = patches.features
    if len(boxes_R4) == 0:
        return features_BPD.new_zeros(0, features_BPD.shape[-1])
    boxes_R4 = boxes_R4.to(torch.promote_types(features_BPD.dtype, torch.float32))
    # On the CPU this reads two numbers; on a GPU it would wait.
    max_rows, max_columns = patches.grid_sizes.amax(dim=0).tolist()
    grid_R2 = patches.grid_sizes.to(boxes_R4.device)[image_index_R]
    rows_R1, columns_R1 = grid_R2.split(1, dim=1)
    column_weights = _axis_weights(boxes_R4[:, 0], boxes_R4[:, 2], max_columns, columns_R1)
    row_weights = _axis_weights(boxes_R4[:, 1], boxes_R4[:, 3], max_rows, rows_R1)
    # The patch at place p of an image lies in row p // columns. Padding behind the last patch weighs nothing.
    place_P = torch.arange(features_BPD.shape[1], device=boxes_R4.device)
    row_RP = (place_P // columns_R1).clamp(max=max_rows - 1)
    weights_RP = row_weights.gather(1, row_RP) * column_weights.gather(1, place_P % columns_R1)
    weights_RP = weights_RP * (place_P < rows_R1 * columns_R1)
    # What a tower computes for padding has no meaning, and 0 times infinity would be no number.
    features_BPD = features_BPD.masked_fill(~patches.mask[:, :, None], 0)
    if slots is None:
        slots = slots_by_image(image_index_R, len(features_BPD))
    return slots.rows(slots.block(weights_RP.to(features_BPD.dtype), len(features_BPD)) @ features_BPD)


def _axis_weights(start_R: Tensor, end_R: Tensor, max_cells: int, num_cells_R1: Tensor | None = None) -> Tensor:
    """
    Returns the mean bilinear weight of each cell, `(R, X)`, over the samples of an interval along one axis.

    Args:
        start_R, end_R: The interval of each box.
        max_cells: The cells of the longest axis: X.
        num_cells_R1: The cells of the axis of each box; by default all have as many.
    """
    num_cells: Any = max_cells if num_cells_R1 is None else num_cells_R1
    # "Aligned": the centre of the first cell is 0.
    start_R = start_R - 0.5
    end_R = end_R - 0.5
    length_R = end_R - start_R
    count_R = length_R.ceil().clamp(min=0)
    step_R = length_R / count_R.clamp(min=1)
    # A box far larger than the map has any number of samples, most of them beyond it. Samples of a box are more than
    # half a cell apart, so that at most this many can lie on the map. They are counted from about the first that does.
    num_samples = 2 * max_cells + 5
    # Which samples are counted is a step function of the box: it has no gradient.
    first_R = ((-1 - start_R) / step_R.clamp(min=0.5) - 1).floor().clamp(min=0).detach()
    sample_RO = first_R[:, None] + torch.arange(num_samples, device=start_R.device)
    position_RO = start_R[:, None] + (sample_RO + 0.5) * step_R[:, None]
    counts_RO = (sample_RO < count_R[:, None]) & (position_RO >= -1) & (position_RO <= num_cells)
    # A sample up to one cell beyond the map takes the value of the border.
    if num_cells_R1 is None:
        clamped_RO = position_RO.clamp(0, max_cells - 1)
    else:
        clamped_RO = position_RO.clamp(min=0).minimum((num_cells_R1 - 1).to(position_RO))
    cell_X = torch.arange(max_cells, device=start_R.device)
    weights_ROX = (1 - (clamped_RO[:, :, None] - cell_X).abs()).clamp(min=0)
    # Samples that do not count stay in the mean.
    return (weights_ROX * counts_RO[:, :, None]).sum(dim=1) / count_R.clamp(min=1)[:, None]


__all__ = ["checked_boxes", "grid_boxes", "roi_align", "roi_align_of_map"]
