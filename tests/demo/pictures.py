"""Pictures inside HTML, as images, and their comparison."""

import base64
import io
import re

from PIL import Image, ImageChops


def picture_of(uri: str) -> Image.Image:
    """The image of a `data:` link."""
    content = base64.b64decode(uri.partition(",")[2])
    return Image.open(io.BytesIO(content)).convert("RGB")


def pictures_of(html: str) -> list[Image.Image]:
    """The PNG images of a piece of HTML."""
    return [picture_of(uri) for uri in re.findall(r'src="(data:image/png;base64,[^"]+)"', html)]


def same(first: Image.Image, second: Image.Image) -> bool:
    """Whether two images have the same pixels."""
    return first.size == second.size and ImageChops.difference(first, second).getbbox() is None
