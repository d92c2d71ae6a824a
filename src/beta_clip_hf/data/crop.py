"""Random resized crop of PIL images, with torchvision's meaning of its parameters."""

import math
import random

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate


ASPECT_RATIOS = (3 / 4, 4 / 3)


def crop_box(image_size: tuple[int, int], scale: tuple[float, float], rng: random.Random) -> tuple[int, int, int, int]:
    """
    A random part of an image, `(left, top, width, height)` in pixels.

    It has `scale` times the image's area, uniform in that range, and an aspect ratio log-uniform in 3/4 … 4/3. If ten
    attempts do not fit into the image, it is the largest central part whose ratio is in that range.
    """
    full_width, full_height = image_size
    low, high = map(math.log, ASPECT_RATIOS)
    for _ in range(10):
        area = full_width * full_height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            return rng.randint(0, full_width - width), rng.randint(0, full_height - height), width, height
    width = min(full_width, max(1, round(full_height * ASPECT_RATIOS[1])))
    height = min(full_height, max(1, round(full_width / ASPECT_RATIOS[0])))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


def resized_part(image: Image.Image, part: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """The part of an RGB image, as [`crop_box`] gives it, resized to `size` = (width, height) pixels.

    Bicubic with antialiasing, in whole numbers, by torch: the same filter as PIL's in less than half of its time.
    """
    left, top, width, height = part
    part_HWC = torch.from_numpy(np.array(image.crop((left, top, left + width, top + height))))
    resized_CHW = interpolate(part_HWC.permute(2, 0, 1)[None], size[::-1], mode="bicubic", antialias=True)[0]
    return Image.fromarray(resized_CHW.permute(1, 2, 0).numpy())
