"""Reads the pictures that the tests of this folder draw."""

import os

from PIL import Image


def read_png(path: str | os.PathLike[str]) -> Image.Image:
    """Reads a picture in RGB, which must be a PNG of some size."""
    image = Image.open(path)
    assert image.format == "PNG" and image.width > 300
    return image.convert("RGB")
