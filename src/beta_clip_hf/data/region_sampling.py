"""Draws the regions of a row that a batch learns from."""

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..model.boxes_beta_clip import Box, box_in_view, cut_box, pixel_box, visible_share
from ..model.image_views_beta_clip import view_of_image
from ..model.text_cleaning_beta_clip import clean_checked_text
from .regions import DEFAULT_BOX_FORMAT, check_boxes_in_image, regions_of


# A region of which less than half is seen may not show what its text says. Rounding may make exactly half a bit less.
LEAST_VISIBLE_SHARE = 0.5 - 1e-9


class Crop(NamedTuple):
    """The part of an image that the processor gets."""

    box: Box
    """The part, in pixels of the image."""
    size: tuple[int, int]
    """Width and height, in pixels, that the part is resized to."""


def draw_regions(
    row: Mapping[str, Any],
    number: int,
    image_size: tuple[int, int],
    crop: Crop,
    image_processor: Any,
    rng: random.Random,
) -> list[dict[str, Any]]:
    """Draws regions of a row without replacement, among those of which at least half is seen.

    Args:
        row: A checked row.
        number: Largest number of regions.
        image_size: Width and height of the row's image in pixels.
        crop: Part of the image that the processor gets.
        image_processor: Decides what the model sees of that part.
        rng: The random generator.

    Returns:
        The regions in the order of the row: `box` in shares of the sides of the crop, cut at its borders, a cleaned
        `text`, and `hard_texts` where the region has negatives.

    Raises:
        ValueError: if a box lies outside of the image, or a text is empty after cleaning.
    """
    check_boxes_in_image(row, image_size)
    regions = regions_of(row)
    # All regions are put into an order, and all texts are drawn, before the crop takes regions away. So a crop does not
    # change what is drawn of the regions that are left.
    order = rng.sample(range(len(regions)), len(regions))
    text_names = [rng.choice(_text_names(region)) for region in regions]
    box_format = row.get("box_format", DEFAULT_BOX_FORMAT)
    view = view_of_image(crop.size, image_processor)
    box_of_region: dict[int, Box] = {}
    for index in order:
        if len(box_of_region) == number:
            break
        box = box_in_view(pixel_box(regions[index]["box"], box_format, image_size), crop.box)
        visible_box = box_in_view(pixel_box(box, "xyxy_normalized", crop.size), view)
        if visible_share(visible_box) >= LEAST_VISIBLE_SHARE:
            box_of_region[index] = cut_box(box)
    # Without regions of its own, the row's phrases with a box are its regions.
    source = "regions" if row.get("regions") else "phrases with a box"
    drawn = []
    for index in sorted(box_of_region):
        texts = _clean_texts(regions[index], text_names[index], f"{source}[{index}]")
        drawn.append({"box": box_of_region[index], **texts})
    return drawn


def _text_names(region: Mapping[str, Any]) -> list[str]:
    return [name for name in ("text", "long_text") if region.get(name)]


def _clean_texts(region: Mapping[str, Any], text_name: str, field: str) -> dict[str, Any]:
    text = clean_checked_text(region[text_name], f"{field}.{text_name}")
    texts: dict[str, Any] = {"text": text}
    negatives = region.get("negatives")
    if negatives:
        # The negatives stand against the short text, which is the text of the region unless its long text was drawn.
        true_text = text if text_name == "text" else clean_checked_text(region["text"], f"{field}.text")
        false_texts = [clean_checked_text(text, f"{field}.negatives[{index}]") for index, text in enumerate(negatives)]
        texts["hard_texts"] = [true_text, *false_texts]
    return texts
