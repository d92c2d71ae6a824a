"""The shapes and textures of the generated scenes, as functions of the plane that tell where there is ink.

A shape lies in the square [-1, 1] x [-1, 1], with u to the right and v down. Its function takes arrays of u and v that
broadcast (as `numpy.ogrid` gives them) and returns the boolean array that they span. Single precision is enough here,
and twice as fast as double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

HOLE_RADIUS = 0.74
"""Half of the width of the hole in a ring or a frame, as a fraction of half of its own width."""


class Outline(NamedTuple):
    """A shape, its centre and its diameter in scene units."""

    shape: str
    x: float
    y: float
    diameter: float


def _circle(u: Floats, v: Floats) -> Mask:
    return u * u + v * v <= 1.0


def _square(u: Floats, v: Floats) -> Mask:
    return (abs(u) <= 0.92) & (abs(v) <= 0.92)


def _triangle(u: Floats, v: Floats) -> Mask:
    return 2.0 * abs(u) <= v + 1.0


def _cross(u: Floats, v: Floats) -> Mask:
    return (abs(u) <= 0.34) | (abs(v) <= 0.34)


def _diamond(u: Floats, v: Floats) -> Mask:
    return abs(u) + abs(v) <= 1.0


def _heart(u: Floats, v: Floats) -> Mask:
    lobes = (abs(u) - 0.48) ** 2 + (v + 0.42) ** 2 <= 0.27
    between_lobes = (abs(u) <= 0.48) & (v >= -0.42) & (v <= 0.0)
    # The sides of the point touch the lobes.
    point = (v >= -0.09) & (abs(u) <= 0.81 * (1.0 - v))
    return lobes | between_lobes | point


def _star(u: Floats, v: Floats) -> Mask:
    """A pentagram: the points that lie on the inner side of at least four of its five lines."""
    num_inner_sides = np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=np.int8)
    for line in range(5):
        angle = math.radians(72 * line - 90)
        num_inner_sides += math.cos(angle) * u + math.sin(angle) * (v - 0.09) <= 0.35
    return num_inner_sides >= 4


def _crescent(u: Floats, v: Floats) -> Mask:
    return _circle(u, v) & ((u - 0.55) ** 2 + v * v >= 0.62)


def _arrow(u: Floats, v: Floats) -> Mask:
    head = (1.1 * abs(u) <= v + 1.0) & (v <= 0.05)
    shaft = (abs(u) <= 0.36) & (v > 0.0)
    return head | shaft


def _ring(u: Floats, v: Floats) -> Mask:
    radius2 = u * u + v * v
    return (radius2 <= 1.0) & (radius2 >= HOLE_RADIUS**2)


def _frame(u: Floats, v: Floats) -> Mask:
    return np.maximum(abs(u), abs(v)) >= HOLE_RADIUS


SHAPES: dict[str, Callable[[Floats, Floats], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "crescent": _crescent,
    "arrow": _arrow,
    "ring": _ring,
    "frame": _frame,
}
"""Name → where the shape has ink."""

HOLLOW_SHAPES = ("ring", "frame")


def _odd(number: Floats) -> Mask:
    """Tells whether the integer part of each number is odd."""
    # A remainder of floats would be several times slower.
    return (np.floor(number).astype(np.int8) & 1).view(np.bool_)


def _striped(x: Floats, y: Floats) -> Mask:
    return _odd((x + y) / np.float32(3.4))


def _dotted(x: Floats, y: Floats) -> Mask:
    return (x % 5.5 - 2.75) ** 2 + (y % 5.5 - 2.75) ** 2 <= 2.9


def _checkered(x: Floats, y: Floats) -> Mask:
    return _odd(x / np.float32(3.6)) ^ _odd(y / np.float32(3.6))


def _shaded(x: Floats, y: Floats) -> Mask:
    # Adding nothing of y gives the mask the rows of y.
    return x + 0.0 * y > 0.0


TEXTURES: dict[str, Callable[[Floats, Floats], Mask] | None] = {
    "solid": None,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "shaded": _shaded,
}
"""Name → where the second ink goes, from x and y in scene units measured from the object's centre. `None`: nowhere."""


def shape_mask(shape: str, u: Floats, v: Floats) -> Mask:
    """Tells which points a shape covers: u (1, columns) and v (rows, 1) -> (rows, columns), or any that broadcast.

    What a formula covers outside of the square [-1, 1] x [-1, 1] is cut off.
    """
    return SHAPES[shape](u, v) & (abs(u) <= 1.0) & (abs(v) <= 1.0)


def covered_fraction(back: Outline, front: Outline) -> float:
    """Returns how much of a shape lies under another one, from 0 to 1.

    >>> covered_fraction(Outline("square", 20.0, 20.0, 10.0), Outline("square", 25.0, 20.0, 10.0))
    0.45...
    """
    # The centres of 24 x 24 cells in the square of the shape behind.
    grid = (np.arange(24, dtype=np.float32) + np.float32(0.5)) / np.float32(12.0) - np.float32(1.0)
    u = grid[None, :]
    v = grid[:, None]
    back_mask = shape_mask(back.shape, u, v)
    # The same points in the square of the shape in front.
    scale = back.diameter / front.diameter
    front_u = u * scale + 2.0 * (back.x - front.x) / front.diameter
    front_v = v * scale + 2.0 * (back.y - front.y) / front.diameter
    covered = back_mask & shape_mask(front.shape, front_u, front_v)
    return float(covered.sum() / back_mask.sum())
