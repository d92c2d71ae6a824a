"""Regions of a row: its boxes with their texts, and whether the boxes lie in the image."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..model.boxes_beta_clip import BOX_FORMATS
from .fields import is_inside, outside


# The boxes of a row have two corners. Of all formats of boxes, these are the ones that a row may have.
ROW_BOX_FORMATS = tuple(name for name in BOX_FORMATS if name.startswith("xyxy"))
DEFAULT_BOX_FORMAT = "xyxy_pixels"


def regions_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the regions of a checked row: `{"box", "text"}`, maybe with `"long_text"` and `"negatives"`.

    A row without regions gives its phrases that have exactly one box instead. Boxes of phrases are always pixels, so
    such a row gives no regions if its `box_format` is another: the boxes returned are always what `box_format` says.

    >>> regions_of({"phrases": ["a cat", {"text": "a red chair", "boxes": [[2, 3, 40, 50]]}]})
    [{'box': [2, 3, 40, 50], 'text': 'a red chair'}]
    """
    if row.get("regions"):
        return list(row["regions"])
    return [{"box": phrase["boxes"][0], "text": phrase["text"]} for _, phrase in _phrases_with_one_box(row)]


def check_boxes_in_image(row: Mapping[str, Any], image_size: tuple[int, int]) -> None:
    """Makes sure that the boxes of [`regions_of`] lie in the image, up to 1 % of each side.

    Call it when the image is loaded: the row need not say how large its image is.

    Args:
        row: A checked row.
        image_size: Width and height in pixels, as `Image.size`. Normalised boxes do not depend on it.

    Raises:
        ValueError: names the box.

    >>> check_boxes_in_image({"regions": [{"box": [0, 0, 641, 9], "text": "a cat"}]}, (640, 480))
    >>> check_boxes_in_image({"regions": [{"box": [0, 0, 999, 9], "text": "a cat"}]}, (640, 480))
    Traceback (most recent call last):
    ValueError: regions[0].box must lie in the image of 640 × 480 pixels, but is [0, 0, 999, 9]
    """
    width, height = (1, 1) if _is_normalized(row) else image_size
    _check_regions_inside(row, width, height)
    if row.get("regions"):
        return
    for index, phrase in _phrases_with_one_box(row):
        box = phrase["boxes"][0]
        if not is_inside(box, width, height):
            raise ValueError(outside(f"phrases[{index}].boxes[0]", box, width, height))


def check_boxes_in_stated_size(row: Mapping[str, Any]) -> None:
    """Makes sure that `regions` lie in an image of the size that the row states, where it states one.

    Boxes of phrases are not looked at: whatever `box_format` says, they are pixels.

    Raises:
        ValueError: names the box.
    """
    stated_size = _stated_size(row)
    if stated_size is not None:
        _check_regions_inside(row, *stated_size)


def _check_regions_inside(row: Mapping[str, Any], width: float, height: float) -> None:
    for index, region in enumerate(row.get("regions") or ()):
        if not is_inside(region["box"], width, height):
            raise ValueError(outside(f"regions[{index}].box", region["box"], width, height))


def _stated_size(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Returns the sides of the image in units of the regions' boxes, or `None` if the row does not state them."""
    if _is_normalized(row):
        return 1, 1
    width, height = row.get("width"), row.get("height")
    # Columns of these names may have another meaning: what is not a size is not taken for one.
    if isinstance(width, (int, float)) and isinstance(height, (int, float)) and width > 0 and height > 0:
        return width, height
    return None


def _is_normalized(row: Mapping[str, Any]) -> bool:
    return row.get("box_format") == "xyxy_normalized"


def _phrases_with_one_box(row: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if _is_normalized(row):
        return
    for index, phrase in enumerate(row.get("phrases") or ()):
        if isinstance(phrase, Mapping) and len(phrase.get("boxes") or ()) == 1:
            yield index, phrase
