"""Draws a generated scene with numpy: supersampled masks, so that the picture depends on no drawing library."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .layout import CANVAS, Scene, SceneObject
from .shapes import TEXTURES, Floats, Mask, shape_mask


COLOURS = {
    "red": (222, 32, 38),
    "green": (30, 160, 62),
    "blue": (36, 72, 224),
    "yellow": (250, 218, 30),
    "pink": (252, 120, 196),
    "cyan": (40, 205, 225),
    "orange": (246, 132, 20),
    "purple": (136, 44, 176),
    "brown": (126, 74, 34),
    "white": (246, 246, 246),
    "gray": (146, 146, 146),
    "black": (22, 22, 22),
}
"""Name → RGB of the ink."""


class Drawing(NamedTuple):
    """A picture, (height, width, 3) uint8, and the box of each object.

    Boxes are xyxy pixels, tight around the visible part of the object, without the right and the bottom edge.
    """

    pixels: NDArray[np.uint8]
    boxes: list[list[int]]


class _Coverage(NamedTuple):
    """Holds the rows and columns of pixels around an object, and the share of each pixel that its two inks cover."""

    rows: slice
    columns: slice
    first_ink: Floats
    second_ink: Floats


def draw(scene: Scene, image_size: int) -> Drawing:
    """Paints the objects from back to front.

    A pixel belongs to the last object that covers half of it or more.

    Args:
        scene: What to draw.
        image_size: Side of the square picture in pixels.
    """
    canvas = _background(scene.background, scene.pattern, image_size).copy()
    owner = np.full((image_size, image_size), -1, dtype=np.int8)
    for index, thing in enumerate(scene.objects):
        coverage = _coverage(thing, image_size)
        covered = coverage.first_ink + coverage.second_ink
        # A view: what is painted on it is painted on the canvas.
        window = canvas[coverage.rows, coverage.columns]
        window *= 1.0 - covered[..., None]
        window += coverage.first_ink[..., None] * _rgb(thing.colour)
        if TEXTURES[thing.texture] is not None:
            window += coverage.second_ink[..., None] * _second_ink(thing.colour)
        owner[coverage.rows, coverage.columns][covered >= 0.5] = index
    boxes = [_tight_box(owner == index) for index in range(len(scene.objects))]
    # Rounded: a cast to integers alone would cut the fractions off.
    return Drawing((canvas + 0.5).astype(np.uint8), boxes)


def _coverage(thing: SceneObject, image_size: int) -> _Coverage:
    """Measures at several points in each pixel whether an object covers it, and with which of its inks."""
    units_per_pixel = CANVAS / image_size
    # The pixels of large pictures are small, so that fewer points in each make as smooth an edge.
    num_samples = 3 if image_size <= 128 else 2
    radius = thing.diameter / 2
    left, right = _window(thing.x, radius, units_per_pixel, image_size)
    top, bottom = _window(thing.y, radius, units_per_pixel, image_size)
    x = _samples(left, right, num_samples, units_per_pixel)[None, :, None, :] - np.float32(thing.x)
    y = _samples(top, bottom, num_samples, units_per_pixel)[:, None, :, None] - np.float32(thing.y)
    mask = shape_mask(thing.shape, x / np.float32(radius), y / np.float32(radius))
    covered = _mean_of_samples(mask)
    second_ink = np.zeros_like(covered)
    texture = TEXTURES[thing.texture]
    if texture is not None:
        second_ink = _mean_of_samples(mask & texture(x, y))
    return _Coverage(slice(top, bottom), slice(left, right), covered - second_ink, second_ink)


def _samples(first: int, last: int, num_samples: int, units_per_pixel: float) -> Floats:
    """Returns the places of the samples in some pixels along an axis, in scene units: (num_samples, last - first).

    The samples are the first axis, because the mean over the first axis of an array is quick.
    """
    within = (np.arange(num_samples, dtype=np.float32) + np.float32(0.5)) / np.float32(num_samples)
    return (np.arange(first, last, dtype=np.float32) + within[:, None]) * np.float32(units_per_pixel)


def _mean_of_samples(mask: Mask) -> Floats:
    """Returns the share of covered samples: (num_samples, num_samples, rows, columns) -> (rows, columns)."""
    num_samples, _, height, width = mask.shape
    # Sums of bytes are several times faster than the mean of booleans.
    samples = mask.view(np.uint8).reshape(num_samples**2, height, width)
    counts = np.add.reduce(samples, axis=0, dtype=np.uint8)
    return counts * np.float32(1.0 / num_samples**2)


def _window(centre: float, radius: float, units_per_pixel: float, image_size: int) -> tuple[int, int]:
    """Returns the first pixel of an object along an axis, and the pixel after its last one."""
    first = math.floor((centre - radius) / units_per_pixel)
    last = math.ceil((centre + radius) / units_per_pixel)
    return max(first, 0), min(last, image_size)


def _tight_box(visible: Mask) -> list[int]:
    """Returns the xyxy box around the pixels of a mask."""
    rows = np.flatnonzero(visible.any(axis=1))
    columns = np.flatnonzero(visible.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@functools.cache
def _rgb(colour: str) -> Floats:
    return np.asarray(COLOURS[colour], dtype=np.float32)


@functools.cache
def _second_ink(colour: str) -> Floats:
    """Returns a much lighter tone of a dark colour, or a much darker tone of a light one."""
    rgb = _rgb(colour)
    # The weights of Rec. 601, by which red, green and blue add up to brightness.
    brightness = float(rgb @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32))
    if brightness < 120:
        return 0.3 * rgb + 0.7 * 250
    return 0.42 * rgb


@functools.lru_cache(maxsize=32)
def _background(colour: str, pattern: str, image_size: int) -> Floats:
    """Returns a background, (height, width, 3).

    It is plain, fades to a middle tone at the bottom, or has a grid of thin lines.
    """
    tone = np.float32(COLOURS[colour][0])
    other_tone = tone + (70.0 if tone < 100 else -70.0)
    centres = (np.arange(image_size, dtype=np.float32) + 0.5) * np.float32(CANVAS / image_size)
    # How much of the other tone a pixel has.
    share = np.zeros((image_size, image_size), dtype=np.float32)
    if pattern == "fading":
        share += (centres / CANVAS)[:, None]
    elif pattern == "grid":
        is_on_line = centres % 8.0 < 1.0
        share += (is_on_line[:, None] | is_on_line[None, :]) * np.float32(0.6)
    grey = tone + (other_tone - tone) * share
    return np.repeat(grey[:, :, None], 3, axis=2)
