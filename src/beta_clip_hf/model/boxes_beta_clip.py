# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Geometry of boxes: from a box on an image to shares of what the model sees of it. Plain numbers, no tensors.

A box is x1 y1 x2 y2 unless its format says otherwise. A size is (width, height) in pixels. A view is the part of an
image that the model sees, a box in pixels of the image (see [`view_of_image`]); in shares of the view's sides it is
(0, 0, 1, 1).
"""

import math
from collections.abc import Sequence
from typing import Any


Box = tuple[float, float, float, float]

BOX_FORMATS = ("xyxy_normalized", "xyxy_pixels", "xywh_pixels")

# Boxes are float32 once they are tensors. Two sides that are closer than this may become equal there.
_LEAST_SIDE = 1e-6
# Boxes that were written with few digits may end a little beyond the image.
_NORMALIZED_TOLERANCE = 0.01


def pixel_box(box: Sequence[float], box_format: str, image_size: tuple[int, int]) -> Box:
    """
    Converts a box of any format to xyxy in pixels of the image.

    Args:
        box: Four numbers in `box_format`.
        box_format: "xyxy_normalized" (shares of the image's sides), "xyxy_pixels" or "xywh_pixels".
        image_size: Width and height of the image.

    Raises:
        ValueError: if the format is unknown.

    >>> pixel_box([10, 20, 30, 40], "xywh_pixels", (100, 100))
    (10, 20, 40, 60)
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format must be one of {BOX_FORMATS}, but is {box_format!r}")
    if box_format == "xywh_pixels":
        return corner_box(box)
    x1, y1, x2, y2 = box
    if box_format == "xyxy_normalized":
        width, height = image_size
        return x1 * width, y1 * height, x2 * width, y2 * height
    return x1, y1, x2, y2


def corner_box(box: Sequence[float]) -> Box:
    """
    Converts a box from xywh to xyxy, whatever its unit is.

    >>> corner_box([10, 20, 30, 40])
    (10, 20, 40, 60)
    """
    x, y, width, height = box
    return x, y, x + width, y + height


def checked_pixel_box(box: Any, box_format: str, image_size: tuple[int, int], name: str) -> Box:
    """
    Converts a box that a user wrote to xyxy in pixels of the image, and checks it.

    Args:
        box, box_format, image_size: As for [`pixel_box`].
        name: What the error message calls the box, for example "regions[0][1].box".

    Raises:
        ValueError: if the box is not four finite numbers, its corners are in the wrong order, or shares of the image's
            sides lie outside of [0, 1] by more than 0.01.
    """
    try:
        numbers = [float(number) for number in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be four finite numbers, but is {box}")

    x1, y1, x2, y2 = pixel_box(numbers, box_format, image_size)
    if x1 > x2 or y1 > y2:
        raise ValueError(f"{name} must have x1 <= x2 and y1 <= y2 ({box_format}), but is {numbers}")

    # Pixels given as shares by mistake are found here, where a silent cut would leave the whole image.
    distance_outside = max(-min(numbers), max(numbers) - 1)
    if box_format == "xyxy_normalized" and distance_outside > _NORMALIZED_TOLERANCE:
        raise ValueError(f"{name} must be shares of the image's sides, in [0, 1], but is {numbers}")
    return x1, y1, x2, y2


def box_in_view(box: Sequence[float], view: Box) -> Box:
    """
    Converts a box to shares of the view's sides. It is not cut at the borders of the view.

    Args:
        box, view: Both xyxy in the same unit, for example pixels of the image.

    >>> box_in_view((0, 25, 75, 50), (50, 0, 150, 100))
    (-0.5, 0.25, 0.25, 0.5)
    """
    x1, y1, x2, y2 = box
    left, top, right, bottom = view
    width, height = right - left, bottom - top
    return (x1 - left) / width, (y1 - top) / height, (x2 - left) / width, (y2 - top) / height


def cut_box(box: Box) -> Box:
    """
    Cuts a box, in shares of a view's sides, at the borders of the view.

    A box outside of the view becomes a box without area at its border.

    >>> cut_box((-0.5, 0.25, 0.25, 0.5))
    (0.0, 0.25, 0.25, 0.5)
    """
    x1, y1, x2, y2 = (min(max(float(share), 0.0), 1.0) for share in box)
    return x1, y1, x2, y2


def seen_box(box: Sequence[float], box_format: str, image_size: tuple[int, int], view: Box) -> Box:
    """
    Converts a box of any format to the part of it that the model sees, in shares of the view's sides.

    Args:
        box, box_format, image_size: As for [`pixel_box`].
        view: What the model sees of the image, from [`view_of_image`].

    >>> seen_box((0, 25, 75, 25), "xywh_pixels", (200, 100), view=(50, 0, 150, 100))
    (0.0, 0.25, 0.25, 0.5)
    """
    return cut_box(box_in_view(pixel_box(box, box_format, image_size), view))


def has_area(box: Box) -> bool:
    """
    Tells whether a box, in shares of a view's sides, has an area in float32.

    A box without area has no region feature.
    """
    return box[2] - box[0] > _LEAST_SIDE and box[3] - box[1] > _LEAST_SIDE


def visible_share(box: Box) -> float:
    """
    Returns the share of a box's area that the model sees.

    Args:
        box: In shares of a view's sides, not cut.

    Returns:
        A number in [0, 1]; 0 if the visible part has no area.

    >>> visible_share((-0.5, 0.25, 0.25, 0.5))
    0.3333333333333333
    """
    visible = cut_box(box)
    if not has_area(visible):
        return 0.0
    x1, y1, x2, y2 = visible
    return (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))


__all__ = [
    "BOX_FORMATS",
    "Box",
    "box_in_view",
    "checked_pixel_box",
    "corner_box",
    "cut_box",
    "has_area",
    "pixel_box",
    "seen_box",
    "visible_share",
]
