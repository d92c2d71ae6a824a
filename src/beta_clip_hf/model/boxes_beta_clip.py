"""Geometry of boxes: from a box on an image to shares of what the model sees of it. Plain numbers, no tensors.

A box is x1 y1 x2 y2 unless its format says otherwise; a size is (width, height) in pixels. A view is the part of an
image that the model sees, a box in pixels of the image; in units of its sides it is (0, 0, 1, 1).
"""

from collections.abc import Sequence
from typing import Any

from .regions_beta_clip import BOX_FORMATS


Box = tuple[float, float, float, float]

# A share of a side below this may be nothing in float32.
_LEAST_SIDE = 1e-6


def seen_size(image_processor: Any) -> tuple[int, int]:
    """
    Width and height of what the image processor gives to the model.

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
    The part of an image that the model sees after the image processor's resize (to a shortest edge, or to a fixed size)
    and centre crop.

    Args:
        image_size: Width and height of the image.
        image_processor: One of CLIP's; only its sizes are read.

    Returns:
        xyxy in pixels of the image. Where the processor pads, the view is larger than the image.

    Example:

    ```python
    >>> from transformers import CLIPImageProcessorPil
    >>> processor = CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 50, "width": 50})
    >>> view_of_image((200, 100), processor)
    (50.0, 0.0, 150.0, 100.0)

    ```
    """
    width, height = image_size
    resized_width, resized_height = _resized(width, height, image_processor)
    view_width, view_height = resized_width, resized_height
    if image_processor.do_center_crop:
        view_width, view_height = image_processor.crop_size["width"], image_processor.crop_size["height"]
    left, top = (resized_width - view_width) // 2, (resized_height - view_height) // 2
    scale_x, scale_y = width / resized_width, height / resized_height
    return left * scale_x, top * scale_y, (left + view_width) * scale_x, (top + view_height) * scale_y


def pixel_box(box: Sequence[float], box_format: str, image_size: tuple[int, int]) -> Box:
    """
    The box in pixels of the image.

    Args:
        box: Four numbers in `box_format`: "xyxy_normalized" (shares of the image's sides), "xyxy_pixels" or
            "xywh_pixels".
        image_size: Width and height of the image.

    Raises:
        ValueError: if the format is unknown.

    >>> pixel_box([10, 20, 30, 40], "xywh_pixels", (100, 100))
    (10, 20, 40, 60)
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format must be one of {BOX_FORMATS}, but is {box_format!r}")
    a, b, c, d = box
    if box_format == "xywh_pixels":
        return a, b, a + c, b + d
    if box_format == "xyxy_normalized":
        width, height = image_size
        return a * width, b * height, c * width, d * height
    return a, b, c, d


def box_in_view(box: Sequence[float], view: Box) -> Box:
    """
    The box in units of the sides of the view, not cut at its borders; both are in the same unit before.

    >>> box_in_view((0, 25, 75, 50), (50, 0, 150, 100))
    (-0.5, 0.25, 0.25, 0.5)
    """
    (left, top, right, bottom), (x1, y1, x2, y2) = view, box
    width, height = right - left, bottom - top
    return (x1 - left) / width, (y1 - top) / height, (x2 - left) / width, (y2 - top) / height


def cut_box(box: Box) -> Box:
    """
    The part of a box in units of a view that is seen. Of a box outside of the view, a box without area at its border.

    >>> cut_box((-0.5, 0.25, 0.25, 0.5))
    (0.0, 0.25, 0.25, 0.5)
    """
    x1, y1, x2, y2 = (min(max(float(x), 0.0), 1.0) for x in box)
    return x1, y1, x2, y2


def has_area(box: Box) -> bool:
    """Whether a box in units of a view has an area that is left in float32. Without one it has no region feature."""
    return box[2] - box[0] > _LEAST_SIDE and box[3] - box[1] > _LEAST_SIDE


def visible_share(box: Box) -> float:
    """
    The share of the area of a box, in units of a view, that is seen; 0 for a box of which no area is seen.

    >>> visible_share((-0.5, 0.25, 0.25, 0.5))
    0.3333333333333333
    """
    x1, y1, x2, y2 = seen = cut_box(box)
    if not has_area(seen):
        return 0.0
    return (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))


def boxes_in_view(boxes: Sequence[Sequence[float]], image_size: tuple[int, int], image_processor: Any) -> list[Box]:
    """
    Boxes as the model sees them.

    Args:
        boxes: xyxy in pixels of the image.
        image_size, image_processor: See [`view_of_image`].

    Returns:
        xyxy in units of the sides of the view, cut at its borders. There may be fewer than `boxes`: one of which
        nothing is seen is dropped.
    """
    view = view_of_image(image_size, image_processor)
    seen = [cut_box(box_in_view(box, view)) for box in boxes]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in seen if x2 > x1 and y2 > y1]


def _resized(width: int, height: int, image_processor: Any) -> tuple[int, int]:
    if not image_processor.do_resize:
        return width, height
    size = dict(image_processor.size)
    if size.get("shortest_edge") and not size.get("longest_edge"):
        shortest = size["shortest_edge"]
        longest = int(shortest * max(width, height) / min(width, height))
        return (shortest, longest) if width <= height else (longest, shortest)
    if size.get("height") and size.get("width"):
        return size["width"], size["height"]
    raise ValueError(f"the image processor's size must be a shortest_edge, or height and width, but is {size}")


__all__ = [
    "Box",
    "box_in_view",
    "boxes_in_view",
    "cut_box",
    "has_area",
    "pixel_box",
    "seen_size",
    "view_of_image",
    "visible_share",
]
