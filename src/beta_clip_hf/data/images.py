"""Reads the image of a row: from a path, from bytes, or as it is."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .fields import shown


def check_image_file(image: Any, field: str = "image") -> None:
    """Raises `ValueError` if an image is the path of a file that does not exist. Other images pass."""
    if isinstance(image, (str, Path)) and not os.path.isfile(image):
        raise ValueError(f"{field} must be an existing file, but is {str(image)!r}")


def load_image(image: Any) -> Image.Image:
    """Reads and decodes an image.

    Args:
        image: A PIL image, a path, the bytes of an image file, or the dict `{"bytes": …, "path": …}` of `datasets`.

    Returns:
        A PIL image in RGB, turned as its EXIF orientation says. A transparent background only loses its transparency.
        Grey of 16 bits, or of floats from 0 to 1, becomes grey of 8 bits.

    Raises:
        ValueError: if the image cannot be read, is cut short, or holds other numbers; the message names the image.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if not isinstance(image, (Image.Image, str, Path, bytes)):
        raise ValueError(f"image must be a path, bytes or a PIL image, but is {shown(image)}")
    try:
        if isinstance(image, Image.Image):
            return _to_rgb(ImageOps.exif_transpose(image))
        file: Any = image
        if isinstance(image, bytes):
            file = io.BytesIO(image)
        with Image.open(file) as opened:
            # In place, because the other form copies an upright image.
            ImageOps.exif_transpose(opened, in_place=True)
            opened.load()
            return _to_rgb(opened)
    # Each codec has exceptions of its own for a broken file.
    except Exception as error:
        name = repr(str(image))
        if isinstance(image, bytes):
            name = f"{len(image)} bytes"
        raise ValueError(f"image must be readable, but is {name}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow would cut grey of more than 8 bits off at 255.
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits, or of floats from 0 to 1, to 8 bits.

    Raises:
        ValueError: if a number is out of range or NaN.
    """
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if image.mode == "F":
        white = 1
    # Some versions of Pillow read grey of 16 bits as mode I, which has 32.
    elif image.mode == "I" and highest <= 255:
        white = 255
    else:
        white = 65535
    # Written so that NaN, which compares as false, is refused as well.
    is_in_range = lowest >= 0 and highest <= white
    if not is_in_range:
        raise ValueError(f"its numbers must be within 0 and {white}, but are within {lowest:g} and {highest:g}")
    return Image.fromarray((values.astype(np.float32) * (255 / white)).round().astype(np.uint8))
