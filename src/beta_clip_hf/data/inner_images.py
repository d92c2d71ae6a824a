"""Images that lie inside of a source, in a table or a tar: they are written to files of their own."""

import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import replacing
from ..model.image_files_beta_clip import opened_image
from .fields import bytes_or_path


# Folder of the files, in that of the rows.
IMAGE_FOLDER = "images"


def image_file(image: Any) -> str:
    """Returns the path of an image that is a file by itself.

    Raises:
        ValueError: if it is none.
    """
    image = bytes_or_path(image)
    if not isinstance(image, (str, Path)):
        raise ValueError(f"image must be a path, bytes or a PIL image, but is a {type(image).__name__}")
    return str(image)


def name_of_inner_image(image: Any) -> str | None:
    """Returns a file name for an image that is no file: a hash of its content. For a file it returns `None`."""
    content = _content(image)
    if content is None:
        return None
    return f"{hashlib.sha256(content).hexdigest()[:32]}.{_suffix(content)}"


def store_inner_image(image: Any, path: Path) -> None:
    """Writes an image to a file, unless it is there already."""
    content = _content(image)
    if content is None or path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _content(image: Any) -> bytes | None:
    """Returns the bytes of the file that an image would be; `None` for an image that is a file by itself."""
    image = bytes_or_path(image)
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        try:
            image.save(buffer, "PNG")
        except OSError as error:
            raise ValueError(f"image must be readable, but is not: {error}") from error
        return buffer.getvalue()
    return None


def _suffix(content: bytes) -> str:
    try:
        with opened_image(content) as image:
            return (image.format or "img").lower()
    # Each codec has exceptions of its own for a broken file.
    except Exception:
        # Whether an image can be decoded is found out where it is used.
        return "img"
