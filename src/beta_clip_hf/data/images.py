"""Reads the image of a row: from a path, from bytes, or as it is."""

import os
from pathlib import Path
from typing import Any

from PIL import Image

# The processor reads images by the same function, so that a model sees in use what it saw in training.
from ..model.image_loading_beta_clip import load_image
from .fields import missing_file_error


def check_image_file(image: Any, field: str = "image") -> None:
    """Raises `ValueError` if an image is the path of a file that does not exist. Other images pass."""
    if isinstance(image, (str, Path)) and not os.path.isfile(image):
        raise missing_file_error(image, field)


def thumbnail(image: Image.Image, longest_side: int) -> Image.Image:
    """Returns an image whose longer side has at most so many pixels. Unlike Pillow's, it makes no large copy."""
    scale = longest_side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


__all__ = ["check_image_file", "load_image", "thumbnail"]
