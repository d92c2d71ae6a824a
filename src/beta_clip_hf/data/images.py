"""Reads the image of a row: from a path, from bytes, or as it is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

# The processor reads images by the same function, so that a model sees in use what it saw in training.
from ..model.image_loading_beta_clip import load_image
from .fields import missing_file_error


def bytes_or_path(image: Any) -> Any:
    """Returns what an image of `datasets`, `{"bytes": …, "path": …}`, holds: its bytes, or else its path.

    Any other image is returned as it is.
    """
    if isinstance(image, Mapping):
        return image.get("bytes") or image.get("path")
    return image


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


__all__ = ["bytes_or_path", "check_image_file", "load_image", "thumbnail"]
