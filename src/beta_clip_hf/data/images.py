"""Reads the image of a row: from a path, from bytes, or as it is."""

import os
from pathlib import Path
from typing import Any

# The processor reads images by the same function, so that a model sees in use what it saw in training.
from ..model.image_loading_beta_clip import load_image


def check_image_file(image: Any, field: str = "image") -> None:
    """Raises `ValueError` if an image is the path of a file that does not exist. Other images pass."""
    if isinstance(image, (str, Path)) and not os.path.isfile(image):
        raise ValueError(f"{field} must be an existing file, but is {str(image)!r}")


__all__ = ["check_image_file", "load_image"]
