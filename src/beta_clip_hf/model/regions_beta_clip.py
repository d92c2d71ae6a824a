"""Region features: RoIAlign of the patch features to one vector per box, in plain torch.

Letters: B images, R boxes (flat), P = height · width patches, D projection width, G samples along an axis.
"""

import torch
from torch import Tensor

from .boxes_beta_clip import BOX_FORMATS
from .ragged_beta_clip import ImageSlots, slots_by_image


def grid_boxes(boxes_R4: Tensor, box_format: str, image_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """
    Boxes in units of the patch grid, x1 y1 x2 y2.

    Args:
        boxes_R4 (`Tensor` of shape `(R, 4)`): in `box_format`.
        box_format (`str`): "xyxy_normalized" (shares of the image's sides), "xyxy_pixels" or "xywh_pixels".
        image_size, grid: height and width in pixels and in patches.

    Raises:
        ValueError: if the format is unknown or the boxes are not `(R, 4)`.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format must be one of {BOX_FORMATS}, but is {box_format!r}")
    if boxes_R4.ndim != 2 or boxes_R4.shape[1] != 4:
        raise ValueError(f"boxes must have shape (R, 4), but are {tuple(boxes_R4.shape)}")
    if box_format == "xywh_pixels":
        boxes_R4 = torch.cat([boxes_R4[:, :2], boxes_R4[:, :2] + boxes_R4[:, 2:]], dim=1)
    (height, width), (rows, columns) = image_size, grid
    x_scale, y_scale = (columns, rows) if box_format == "xyxy_normalized" else (columns / width, rows / height)
    return torch.stack([boxes_R4[:, 0::2] * x_scale, boxes_R4[:, 1::2] * y_scale], dim=2).flatten(1)


def roi_align(
    patch_features_BPD: Tensor,
    boxes_R4: Tensor,
    image_index_R: Tensor,
    grid: tuple[int, int],
    slots: ImageSlots | None = None,
) -> Tensor:
    r"""
    RoIAlign to 1 × 1 (aligned, adaptive sampling): the mean of bilinear samples at ⌈height⌉ × ⌈width⌉ points of a box.

    A sample more than one cell beyond the map counts as 0 and stays in the mean; boxes are never clipped; a box without
    area is exactly 0. Samples stand on a lattice and bilinear weights are a product, so the mean is a product too, of
    one weight per row and one per column of the grid: each box is one row of a matrix over the patches.

    Args:
        patch_features_BPD (`Tensor` of shape `(B, P, D)`): row-major over the grid.
        boxes_R4 (`Tensor` of shape `(R, 4)`): x1 y1 x2 y2 in grid units: (0, 0, columns, rows) is the whole map.
        image_index_R (`Tensor` of shape `(R,)`, int64): the image of each box, in any order.
        grid (`tuple[int, int]`): rows and columns of the patch grid.
        slots (*optional*): what [`slots_by_image`] makes of `image_index`; known beforehand, no GPU is waited for.

    Returns:
        `(R, D)`, of the features' dtype. No boxes give no rows.

    Source: He et al. 2017 (RoIAlign), with the settings of FG-CLIP (arXiv 2505.05071).
    """
    if len(boxes_R4) == 0:
        return patch_features_BPD.new_zeros(0, patch_features_BPD.shape[-1])
    boxes_R4 = boxes_R4.to(torch.promote_types(patch_features_BPD.dtype, torch.float32))
    column_weights = _axis_weights(boxes_R4[:, 0], boxes_R4[:, 2], grid[1])
    row_weights = _axis_weights(boxes_R4[:, 1], boxes_R4[:, 3], grid[0])
    weights_RP = (row_weights[:, :, None] * column_weights[:, None, :]).flatten(1).to(patch_features_BPD.dtype)
    num_images = len(patch_features_BPD)
    slots = slots_by_image(image_index_R, num_images) if slots is None else slots
    return slots.rows(slots.block(weights_RP, num_images) @ patch_features_BPD)


def _axis_weights(start_R: Tensor, end_R: Tensor, size: int) -> Tensor:
    """Mean bilinear weight of each of `size` cells, `(R, size)`, over the samples of an interval along one axis."""
    start_R, end_R = start_R - 0.5, end_R - 0.5  # the centre of the first cell is 0
    length_R = end_R - start_R
    count_R = length_R.ceil().clamp(min=0)
    step_R = length_R / count_R.clamp(min=1)
    # Samples of one box are more than half a cell apart: so many can lie on the map, from about the first that does.
    first_R = ((-1 - start_R) / step_R.clamp(min=0.5) - 1).floor().clamp(min=0).detach()
    sample_RG = first_R[:, None] + torch.arange(2 * size + 5, device=start_R.device)
    position_RG = start_R[:, None] + (sample_RG + 0.5) * step_R[:, None]
    counts_RG = (sample_RG < count_R[:, None]) & (position_RG >= -1) & (position_RG <= size)
    cell = torch.arange(size, device=start_R.device)
    weights_RGC = (1 - (position_RG.clamp(0, size - 1)[:, :, None] - cell).abs()).clamp(min=0)
    return (weights_RGC * counts_RG[:, :, None]).sum(dim=1) / count_R.clamp(min=1)[:, None]


__all__ = ["grid_boxes", "roi_align"]
