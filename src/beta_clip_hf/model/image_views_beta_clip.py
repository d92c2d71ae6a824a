# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""What an image processor does to an image: which part of it the model sees, in which size, and on which scale."""

import copy
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from PIL import __version__ as pillow_version
from torch import Tensor
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import get_image_size, is_pil_image

from .boxes_beta_clip import Box, box_in_view, cut_box


# Photos up to this size go through an image processor as they are. It copies an image a few times.
_MOST_PIXELS = 16_000_000
# The order in which Pillow resizes width and height changed in 12.2 and in 13.
_PILLOW = tuple(int(number) for number in pillow_version.split(".")[:2])
_GEOMETRY = ("do_resize", "size", "do_center_crop", "crop_size", "resample")


def seen_size(image_processor: Any) -> tuple[int, int]:
    """
    Returns width and height of the images that the image processor gives to the model.

    Raises:
        ValueError: if they differ from image to image: a resize to a shortest edge without a crop.
    """
    if getattr(image_processor, "do_center_crop", False):
        return image_processor.crop_size["width"], image_processor.crop_size["height"]
    size = dict(image_processor.size)
    if image_processor.do_resize and size.get("height") and size.get("width"):
        return size["width"], size["height"]
    raise ValueError(
        "the image processor must give images of one size (by a centre crop, or a resize to height and width), "
        f"but its size is {size} and it does not crop"
    )


def has_any_grid(image_processor: Any) -> bool:
    """Tells whether an image processor keeps the shapes of images: it resizes them whole to so many patches."""
    return hasattr(image_processor, "max_num_patches")


def check_patch_budget(count: Any, image_processor: Any) -> None:
    """Raises `ValueError` for a number of patches that an image cannot have, or an image processor cannot keep to."""
    if not has_any_grid(image_processor):
        raise ValueError(
            f"max_num_patches must be left out, because the image processor resizes to one size, but is {count!r}"
        )
    if type(count) is not int or count < 1:
        raise ValueError(f"max_num_patches must be a whole number from 1, but is {count!r}")


def view_of_image(image_size: tuple[int, int], image_processor: Any) -> Box:
    """
    Returns the part of an image that the model sees.

    The image processor resizes (to a shortest edge, or to a fixed size) and then crops the centre.

    Args:
        image_size: Width and height of the image.
        image_processor: One of CLIP's or SigLIP's; only its sizes are read.

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
    if has_any_grid(image_processor):
        return 0.0, 0.0, float(width), float(height)
    resized_width, resized_height = _resized_size(width, height, image_processor)
    view_width, view_height = resized_width, resized_height
    if getattr(image_processor, "do_center_crop", False):
        view_width, view_height = image_processor.crop_size["width"], image_processor.crop_size["height"]

    # The crop begins at a whole pixel of the resized image.
    left, top = (resized_width - view_width) // 2, (resized_height - view_height) // 2
    scale_x, scale_y = width / resized_width, height / resized_height
    return left * scale_x, top * scale_y, (left + view_width) * scale_x, (top + view_height) * scale_y


def view_in_pixels(image_size: tuple[int, int], image_processor: Any) -> tuple[int, int, int, int]:
    """Returns [`view_of_image`] in whole pixels, at least one in each direction, so that an image can be cut there."""
    left, top, right, bottom = map(round, view_of_image(image_size, image_processor))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def within_memory(images: Sequence[Any], image_processor: Any, options: Mapping[str, Any] | None = None) -> list[Any]:
    """
    Makes images small that would take much memory in an image processor: large ones, and thin ones.

    An image processor resizes an image to its shortest edge before it cuts the centre out: of 4,000 × 1 pixels it makes
    896,000 × 224. Here only what the processor will keep is resized, by the same filter and on the same grid, so that
    the processor has the same pixels left to cut.

    Args:
        images: PIL images; arrays and tensors are left as they are.
        image_processor: The image processor that gets them next.
        options: What the caller of the processor sets in place of its own settings.

    Returns:
        The images. Ordinary photos, up to 16 megapixels, are the same objects.
    """
    settings = {name: getattr(image_processor, name, None) for name in _GEOMETRY}
    settings |= {name: value for name, value in (options or {}).items() if name in _GEOMETRY and value is not None}
    if not settings["do_resize"]:
        return list(images)
    # NaFlex has no size.
    settings["size"] = get_size_dict(settings["size"], default_to_square=False) if settings["size"] else {}
    if settings["do_center_crop"]:
        settings["crop_size"] = get_size_dict(settings["crop_size"])
    geometry = SimpleNamespace(**settings)
    return [_within_memory(image, geometry) if is_pil_image(image) else image for image in images]


def _within_memory(image: Image.Image, settings: Any) -> Image.Image:
    try:
        resized_size = _resized_size(*image.size, settings)
    except ValueError:
        # For a processor with another kind of size, only the size of the image is bounded.
        return _smaller(image)
    if max(math.prod(image.size), math.prod(resized_size)) <= _MOST_PIXELS:
        return image
    size = []
    edges = []
    shortest = min(resized_size)
    names = ("width", "height")
    for name, side, resized in zip(names, image.size, resized_size, strict=True):
        crop = resized
        kept = resized
        if settings.do_center_crop:
            crop = settings.crop_size[name]
            # Not below the shortest edge: the processor would enlarge it again.
            kept = min(resized, max(crop, shortest))
        # Where the processor's crop of the result begins at the same pixel as its crop of the whole.
        start = (resized - crop) // 2 - (kept - crop) // 2
        size.append(kept)
        edges.append((start * side / resized, (start + kept) * side / resized))
    (left, right), (top, bottom) = edges
    resample = Image.Resampling.BICUBIC if settings.resample is None else Image.Resampling(settings.resample)
    return _resized_part(image, (size[0], size[1]), (left, top, right, bottom), resample, resized_size)


def _resized_part(
    image: Image.Image, size: tuple[int, int], part: Box, resample: Image.Resampling, whole_size: tuple[int, int]
) -> Image.Image:
    """
    Resizes a part of an image to `size`. The pixels are those of the whole image in `whole_size`.

    Pillow resizes one direction after the other and rounds and clips between them, so the pixels depend on the order.
    """
    if _vertical_first(image.size, size) == _vertical_first(image.size, whole_size):
        return image.resize(size, resample, box=part)
    left, top, right, bottom = part
    # Each call changes one direction alone.
    if _vertical_first(image.size, whole_size):
        image = image.resize((image.width, size[1]), resample, box=(0, top, image.width, bottom))
        return image.resize(size, resample, box=(left, 0, right, size[1]))
    image = image.resize((size[0], image.height), resample, box=(left, 0, right, image.height))
    return image.resize(size, resample, box=(0, top, size[0], bottom))


def _vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tells whether Pillow resizes the height first: `ImagingResampleInner` in Resample.c, before 13 Image.py."""
    fewer_columns, fewer_rows = before[0] - after[0], before[1] - after[1]
    if _PILLOW >= (13, 0):
        return fewer_rows > max(0, 2 * fewer_columns)
    return _PILLOW >= (12, 2) and before[1] > 100 * before[0] and fewer_rows > 0


def _smaller(image: Image.Image) -> Image.Image:
    """Scales an image down by a whole number to the size of an ordinary photo."""
    factor = math.ceil(math.sqrt(math.prod(image.size) / _MOST_PIXELS))
    if factor <= 1:
        return image
    return image.reduce((min(factor, image.width), min(factor, image.height)))


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


def pixel_scale(image_processor: Any) -> Tensor | None:
    """
    Returns how an image processor maps levels of 0 to 255 to numbers for the model, see `scaled_pixels`.

    Returns:
        `(2, 3)` float32: for each channel the factor and the number that is added. `None` for a processor that does not
        both rescale and normalise three channels, or that gives patches (NaFlex, which has no size).
    """
    if not getattr(image_processor, "size", None):
        return None
    settings = [getattr(image_processor, name, None) for name in ("rescale_factor", "image_mean", "image_std")]
    steps = [getattr(image_processor, name, False) for name in ("do_rescale", "do_normalize")]
    if not all(steps) or any(setting is None for setting in settings):
        return None
    factor, mean, std = (torch.as_tensor(setting, dtype=torch.float64) for setting in settings)
    if mean.numel() != 3 or std.numel() != 3:
        return None
    return torch.stack([factor / std, -mean / std]).float()


# What the image processor is asked for pixels that are scaled later.
UNSCALED = {"do_rescale": False, "do_normalize": False}


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


__all__ = [
    "UNSCALED",
    "boxes_in_view",
    "check_patch_budget",
    "pixel_scale",
    "seen_size",
    "squashed",
    "view_in_pixels",
    "view_of_image",
    "width_and_height",
    "within_memory",
]
