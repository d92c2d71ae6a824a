"""Reads the image of a row: from a path, from bytes, or as it is."""

import os
from pathlib import Path
from typing import Any

# The processor reads images by the same function, so that a model sees in use what it saw in training.
from ..model.image_loading_beta_clip import load_image


# Words of the message about a path that leads nowhere.
MISSING_FILE = "must be an existing file"


def check_image_file(image: Any, field: str = "image") -> None:
    """Raises `ValueError` if an image is the path of a file that does not exist. Other images pass."""
    if isinstance(image, (str, Path)) and not os.path.isfile(image):
        raise ValueError(f"{field} {MISSING_FILE}, but is {str(image)!r}")


__all__ = ["check_image_file", "load_image"]
