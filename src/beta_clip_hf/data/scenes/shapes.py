"""Where the shapes of the generated scenes have ink: plain functions of the plane.

A shape lives in the square [-1, 1] x [-1, 1] (u to the right, v down). Each function takes a row of u and a column of
v, of any shapes that broadcast (as `numpy.ogrid` gives them), and returns the boolean array that they span.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

HOLE_RADIUS = 0.74
"""Half-width of the hole of a ring or a frame, as a fraction of its half-width."""


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
    point = (v >= -0.09) & (abs(u) <= 0.81 * (1.0 - v))  # its sides touch the lobes
    return lobes | between_lobes | point


def _star(u: Floats, v: Floats) -> Mask:
    """A pentagram: the points on the inner side of at least four of its five lines."""
    count = np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=np.int8)
    for k in range(5):
        angle = math.radians(72 * k - 90)
        count += math.cos(angle) * u + math.sin(angle) * (v - 0.09) <= 0.35
    return count >= 4


def _crescent(u: Floats, v: Floats) -> Mask:
    return _circle(u, v) & ((u - 0.55) ** 2 + v * v >= 0.62)


def _arrow(u: Floats, v: Floats) -> Mask:
    return ((1.1 * abs(u) <= v + 1.0) & (v <= 0.05)) | ((abs(u) <= 0.36) & (v > 0.0))


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

HOLLOW_SHAPES = ("ring", "frame")


def _odd(number: Floats) -> Mask:
    """Whether the integer part is odd. (A remainder of floats would be several times slower.)"""
    return (np.floor(number).astype(np.int8) & 1).view(np.bool_)


def _striped(x: Floats, y: Floats) -> Mask:
    return _odd((x + y) / np.float32(3.4))


def _dotted(x: Floats, y: Floats) -> Mask:
    return (x % 5.5 - 2.75) ** 2 + (y % 5.5 - 2.75) ** 2 <= 2.9


def _checkered(x: Floats, y: Floats) -> Mask:
    return _odd(x / np.float32(3.6)) ^ _odd(y / np.float32(3.6))


def _shaded(x: Floats, y: Floats) -> Mask:
    return x + 0.0 * y > 0.0


TEXTURES: dict[str, Callable[[Floats, Floats], Mask] | None] = {
    "solid": None,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "shaded": _shaded,
}
"""Where the second ink goes: functions of scene units measured from the object's centre. None: nowhere."""


def shape_mask(shape: str, u: Floats, v: Floats) -> Mask:
    """Points of `shape`, cut to its square: (1, W) and (H, 1) -> (H, W), or any shapes that broadcast."""
    return SHAPES[shape](u, v) & (abs(u) <= 1.0) & (abs(v) <= 1.0)


def covered_fraction(back: tuple[str, float, float, float], front: tuple[str, float, float, float]) -> float:
    """How much of the shape `back` lies under `front`; each is (shape, centre x, centre y, diameter)."""
    shape, x, y, diameter = back
    grid = (np.arange(24, dtype=np.float32) + np.float32(0.5)) / np.float32(12.0) - np.float32(1.0)
    u, v = grid[None, :], grid[:, None]
    inside = shape_mask(shape, u, v)
    front_shape, front_x, front_y, front_diameter = front
    scale = diameter / front_diameter
    front_u = u * scale + 2.0 * (x - front_x) / front_diameter
    front_v = v * scale + 2.0 * (y - front_y) / front_diameter
    return float((inside & shape_mask(front_shape, front_u, front_v)).sum() / inside.sum())
