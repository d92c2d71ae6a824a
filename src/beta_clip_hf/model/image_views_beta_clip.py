# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What an image processor does to an image: which part of the image the model sees, and in which size."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers.image_utils import get_image_size, is_pil_image

from .boxes_beta_clip import Box, box_in_view, cut_box


def seen_size(image_processor: Any) -> tuple[int, int]:
    """
    Returns width and height of the images that the image processor gives to the model.

    Raises:
        ValueError: if they differ from image to image: a resize to a shortest edge without a crop.
    """
    if image_processor.do_center_crop:
        return image_processor.crop_size["width"], image_processor.crop_size["height"]
    size = dict(image_processor.size)
    if image_processor.do_resize and size.get("height") and size.get("width"):
        return size["width"], size["height"]
    raise ValueError(
        "the image processor must give images of one size (by a centre crop, or a resize to height and width), "
        f"but its size is {size} and it does not crop"
    )


def view_of_image(image_size: tuple[int, int], image_processor: Any) -> Box:
    """
    Returns the part of an image that the model sees.

    The image processor resizes (to a shortest edge, or to a fixed size) and then crops the centre.

    Args:
        image_size: Width and height of the image.
        image_processor: One of CLIP's; only its sizes are read.

    Returns:
        xyxy in pixels of the image. Where the processor pads, the view is larger than the image.

    Raises:
        ValueError: if the processor resizes in another way.

    Example:

    ```python
    >>> from transformers import CLIPImageProcessorPil
    >>> processor = CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 50, "width": 50})
    >>> view_of_image((200, 100), processor)
    (50.0, 0.0, 150.0, 100.0)

    ```
    """
    width, height = image_size
    resized_width, resized_height = _resized_size(width, height, image_processor)
    view_width, view_height = resized_width, resized_height
    if image_processor.do_center_crop:
        view_width, view_height = image_processor.crop_size["width"], image_processor.crop_size["height"]

    # The crop begins at a whole pixel of the resized image.
    left, top = (resized_width - view_width) // 2, (resized_height - view_height) // 2
    scale_x, scale_y = width / resized_width, height / resized_height
    return left * scale_x, top * scale_y, (left + view_width) * scale_x, (top + view_height) * scale_y


def boxes_in_view(boxes: Sequence[Sequence[float]], image_size: tuple[int, int], image_processor: Any) -> list[Box]:
    """
    Converts boxes to shares of what the model sees of the image, and drops those that it does not see.

    Args:
        boxes: xyxy in pixels of the image.
        image_size, image_processor: As for [`view_of_image`].

    Returns:
        xyxy in shares of the view's sides, cut at its borders. There may be fewer than `boxes`.
    """
    view = view_of_image(image_size, image_processor)
    cut_boxes = [cut_box(box_in_view(box, view)) for box in boxes]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in cut_boxes if x2 > x1 and y2 > y1]


def squashed(image_processor: Any) -> Any:
    """Returns a copy of an image processor that resizes both sides to the size of [`seen_size`] and crops nothing."""
    width, height = seen_size(image_processor)
    image_processor = copy.deepcopy(image_processor)
    image_processor.size = {"height": height, "width": width}
    image_processor.do_resize = True
    image_processor.do_center_crop = False
    return image_processor


def width_and_height(image: Any) -> tuple[int, int]:
    """Returns the size of an image in any form that an image processor takes."""
    # transformers' `get_image_size` returns (width, height) for a PIL image, and (height, width) for all others.
    if is_pil_image(image):
        return image.size
    height, width = get_image_size(image)
    return width, height


def _resized_size(width: int, height: int, image_processor: Any) -> tuple[int, int]:
    """Returns the size of the image after the processor's resize, before its crop."""
    if not image_processor.do_resize:
        return width, height
    size = dict(image_processor.size)
    if size.get("shortest_edge") and not size.get("longest_edge"):
        shortest = size["shortest_edge"]
        # As transformers does: the other side is rounded down.
        longest = int(shortest * max(width, height) / min(width, height))
        return (shortest, longest) if width <= height else (longest, shortest)
    if size.get("height") and size.get("width"):
        return size["width"], size["height"]
    raise ValueError(f"the image processor's size must be a shortest_edge, or height and width, but is {size}")


__all__ = ["boxes_in_view", "seen_size", "squashed", "view_of_image", "width_and_height"]
