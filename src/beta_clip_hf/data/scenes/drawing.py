"""Draws a generated scene with numpy: supersampled masks, so the picture depends on no drawing library.

Letters: S side of the picture in pixels, n subsamples per pixel and axis.
"""

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
"""Name -> RGB of the ink."""


class Drawing(NamedTuple):
    """A picture (S, S, 3) uint8, and for each object its box: tight around the visible pixels, xyxy, right and bottom
    edge excluded."""

    pixels: NDArray[np.uint8]
    boxes: list[list[int]]


def draw(scene: Scene, image_size: int) -> Drawing:
    """Paints the objects from back to front; a pixel belongs to the last object that covers half of it or more."""
    canvas = _background(scene.background, scene.pattern, image_size).copy()
    owner = np.full((image_size, image_size), -1, dtype=np.int8)
    for index, thing in enumerate(scene.objects):
        rows, columns, body, ink = _coverage(thing, image_size)
        patch = canvas[rows, columns]
        alpha = body + ink
        patch *= 1.0 - alpha[..., None]
        patch += body[..., None] * _rgb(thing.colour)
        if TEXTURES[thing.texture] is not None:
            patch += ink[..., None] * _second_ink(thing.colour)
        owner[rows, columns][alpha >= 0.5] = index
    boxes = [_tight_box(owner == index) for index in range(len(scene.objects))]
    return Drawing((canvas + 0.5).astype(np.uint8), boxes)


def _coverage(thing: SceneObject, image_size: int) -> tuple[slice, slice, Floats, Floats]:
    """The window of pixels around an object, and the shares of each pixel under its own colour and its second ink."""
    scale = CANVAS / image_size
    n = 3 if image_size <= 128 else 2
    radius = thing.diameter / 2
    (left, right), (top, bottom) = (_window(at, radius, scale, image_size) for at in (thing.x, thing.y))
    x = _samples(left, right, n, scale)[None, :, None, :] - np.float32(thing.x)
    y = _samples(top, bottom, n, scale)[:, None, :, None] - np.float32(thing.y)
    mask = shape_mask(thing.shape, x / np.float32(radius), y / np.float32(radius))
    alpha = _mean_of_samples(mask)
    texture = TEXTURES[thing.texture]
    ink = _mean_of_samples(mask & texture(x, y)) if texture is not None else np.zeros_like(alpha)
    return slice(top, bottom), slice(left, right), alpha - ink, ink


def _samples(first: int, last: int, n: int, scale: float) -> Floats:
    """(n, last - first): the n places within each pixel, in scene units. Samples lead, so that their mean is quick."""
    within = (np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n)
    return (np.arange(first, last, dtype=np.float32) + within[:, None]) * np.float32(scale)


def _mean_of_samples(mask: Mask) -> Floats:
    """(n, n, H, W) -> (H, W)."""
    n, _, height, width = mask.shape
    counts = np.add.reduce(mask.view(np.uint8).reshape(n * n, height, width), axis=0, dtype=np.uint8)
    return counts * np.float32(1.0 / (n * n))


def _window(centre: float, radius: float, scale: float, image_size: int) -> tuple[int, int]:
    first, last = math.floor((centre - radius) / scale), math.ceil((centre + radius) / scale)
    return max(first, 0), min(last, image_size)


def _tight_box(visible: Mask) -> list[int]:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@functools.cache
def _rgb(colour: str) -> Floats:
    return np.asarray(COLOURS[colour], dtype=np.float32)


@functools.cache
def _second_ink(colour: str) -> Floats:
    """The same colour, much lighter for a dark one and much darker for a light one."""
    rgb = _rgb(colour)
    dark = float(rgb @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32)) < 120
    return 0.3 * rgb + 0.7 * 250 if dark else 0.42 * rgb


@functools.lru_cache(maxsize=32)
def _background(colour: str, pattern: str, image_size: int) -> Floats:
    """(S, S, 3): plain; fading to a middle tone at the bottom; or with a grid of thin lines."""
    tone = np.float32(COLOURS[colour][0])
    other = tone + (70.0 if tone < 100 else -70.0)
    at = (np.arange(image_size, dtype=np.float32) + 0.5) * np.float32(CANVAS / image_size)
    share = np.zeros((image_size, image_size), dtype=np.float32)
    if pattern == "fading":
        share += (at / CANVAS)[:, None]
    elif pattern == "grid":
        line = at % 8.0 < 1.0
        share += (line[:, None] | line[None, :]) * np.float32(0.6)
    return np.repeat((tone + (other - tone) * share)[:, :, None], 3, axis=2)
