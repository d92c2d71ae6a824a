"""The objects of a generated scene, the relations that hold between them, and the zones of the picture.

A scene is measured in scene units: the canvas is 64 units wide and high, x grows to the right and y downwards. The size
of the picture that is drawn of it does not matter here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .shapes import HOLE_RADIUS, HOLLOW_SHAPES, Outline


CANVAS = 64.0


class SceneObject(NamedTuple):
    """An object of a scene. `depth` counts up from the back. Centre and diameter are in scene units."""

    size: str
    texture: str
    colour: str
    shape: str
    x: float
    y: float
    diameter: float
    depth: int

    @property
    def outline(self) -> Outline:
        """The shape of the object and where it lies."""
        return Outline(self.shape, self.x, self.y, self.diameter)

    def matches(self, description: SceneObject, attributes: Sequence[str]) -> bool:
        """Tells whether this object has the same values of `attributes` as a description. No attributes match always.

        >>> star = SceneObject("large", "solid", "red", "star", x=12.0, y=26.0, diameter=25.0, depth=0)
        >>> heart = star.changed(shape="heart")
        >>> star.matches(heart, ("colour",)), star.matches(heart, ("colour", "shape"))
        (True, False)
        """
        if not attributes:
            return True
        values_of = _attribute_getter(tuple(attributes))
        return bool(values_of(self) == values_of(description))

    def changed(self, **values: str) -> SceneObject:
        """Returns this object with other values of some attributes."""
        fields: dict[str, Any] = dict(values)
        return self._replace(**fields)


# Planning a caption compares objects thousands of times: building each getter once makes that several times faster.
@functools.cache
def _attribute_getter(attributes: tuple[str, ...]) -> operator.attrgetter[Any]:
    return operator.attrgetter(*attributes)


class Scene(NamedTuple):
    """Objects from back to front, and the background: its colour and its pattern."""

    objects: tuple[SceneObject, ...]
    background: str
    pattern: str


def is_apart(a: SceneObject, b: SceneObject) -> bool:
    """Tells whether the squares around two objects leave a gap of a unit or more."""
    gap = (a.diameter + b.diameter) / 2 + 1.0
    return abs(a.x - b.x) >= gap or abs(a.y - b.y) >= gap


def is_inside(a: SceneObject, b: SceneObject) -> bool:
    """Tells whether `a` lies in the hole of `b`."""
    room = (HOLE_RADIUS * b.diameter - a.diameter) / 2
    return b.shape in HOLLOW_SHAPES and abs(a.x - b.x) <= room and abs(a.y - b.y) <= room


def _is_left_of(a: SceneObject, b: SceneObject) -> bool:
    return b.x - a.x >= 8.0 and b.x - a.x >= 0.8 * abs(b.y - a.y) and is_apart(a, b)


def _is_above(a: SceneObject, b: SceneObject) -> bool:
    return b.y - a.y >= 8.0 and b.y - a.y >= 0.8 * abs(b.x - a.x) and is_apart(a, b)


def _is_in_front_of(a: SceneObject, b: SceneObject) -> bool:
    return a.depth > b.depth and not is_apart(a, b) and not is_inside(a, b)


def _is_larger(a: SceneObject, b: SceneObject) -> bool:
    return a.size == "large" and b.size == "small"


RELATIONS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left of": _is_left_of,
    "right of": lambda a, b: _is_left_of(b, a),
    "above": _is_above,
    "below": lambda a, b: _is_above(b, a),
    "inside": is_inside,
    "around": lambda a, b: is_inside(b, a),
    "in front of": _is_in_front_of,
    "behind": lambda a, b: _is_in_front_of(b, a),
    "larger than": _is_larger,
    "smaller than": lambda a, b: _is_larger(b, a),
}
"""Relation → whether it plainly holds. Each is asymmetric: where it holds from a to b, it is false from b to a."""

PLACES = ("left of", "right of", "above", "below", "inside", "around", "in front of", "behind")
"""The relations that say where an object lies."""


def zone_of(thing: SceneObject) -> tuple[str, str]:
    """Returns the (column, row) of the picture in which the centre plainly lies. "" stands for a doubtful one.

    >>> zone_of(SceneObject("small", "solid", "red", "star", x=12.0, y=26.0, diameter=15.0, depth=0))
    ('left', '')
    """
    return _third(thing.x, "left", "right"), _third(thing.y, "top", "bottom")


def _third(position: float, first: str, last: str) -> str:
    """Returns the third of the canvas in which a coordinate plainly lies: `first`, "middle", `last` or ""."""
    if position <= 24:
        return first
    if position >= 40:
        return last
    return "middle" if 28 <= position <= 36 else ""


def is_outside_zone(thing: SceneObject, zone: tuple[str, str]) -> bool:
    """Tells whether it is plainly wrong to say that an object lies in a zone. An empty part of a zone says nothing."""
    column, row = zone
    return _is_outside_third(thing.x, column) or _is_outside_third(thing.y, row)


def _is_outside_third(position: float, third: str) -> bool:
    """Tells whether a coordinate plainly lies outside a third of the canvas."""
    if third in ("left", "top"):
        return position >= 32
    if third in ("right", "bottom"):
        return position <= 32
    if third == "middle":
        return abs(position - 32) >= 12
    return False
