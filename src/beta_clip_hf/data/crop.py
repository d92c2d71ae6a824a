"""Random resized crop of PIL images. Its parameters mean what torchvision's mean."""

import math
import random

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate


ASPECT_RATIOS = (3 / 4, 4 / 3)

# As in torchvision: after this many attempts that do not fit, the crop is central.
_ATTEMPTS = 10
_MOST_PIXELS_OF_A_TENSOR = 16_000_000


def crop_box(image_size: tuple[int, int], scale: tuple[float, float], rng: random.Random) -> tuple[int, int, int, int]:
    """Draws a part of an image.

    The part has `scale` times the image's area, uniform in that range, and an aspect ratio log-uniform in 3/4 … 4/3. If
    ten attempts do not fit into the image, it is the largest central part whose ratio is in that range.

    Args:
        image_size: Width and height in pixels.
        scale: Smallest and largest share of the area.
        rng: The random generator.

    Returns:
        `(left, top, width, height)` in pixels.
    """
    full_width, full_height = image_size
    lowest_ratio, highest_ratio = ASPECT_RATIOS
    for _ in range(_ATTEMPTS):
        area = full_width * full_height * rng.uniform(*scale)
        # Log-uniform: a ratio and its inverse are equally likely.
        ratio = math.exp(rng.uniform(math.log(lowest_ratio), math.log(highest_ratio)))
        width = round(math.sqrt(area * ratio))
        height = round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = rng.randint(0, full_width - width)
            top = rng.randint(0, full_height - height)
            return left, top, width, height
    width = min(full_width, max(1, round(full_height * highest_ratio)))
    height = min(full_height, max(1, round(full_width / lowest_ratio)))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


def resized_part(image: Image.Image, part: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Cuts a part out of an RGB image and resizes it, bicubic with antialiasing.

    Args:
        image: An image in RGB.
        part: `(left, top, width, height)` in pixels, see [`crop_box`].
        size: Width and height of the result in pixels.
    """
    left, top, width, height = part
    if width * height > _MOST_PIXELS_OF_A_TENSOR:
        # Without the copies that a tensor of it would take.
        return image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    cropped = image.crop((left, top, left + width, top + height))
    # torch puts colours before rows and columns, and wants a batch.
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1)[None]
    # On uint8, it has the same filter as PIL in less than half of its time.
    resized = interpolate(pixels, size[::-1], mode="bicubic", antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).numpy())
