"""What a generated scene is: its objects, where they lie, and which relations hold between them.

A scene is measured in scene units: the canvas is 64 units wide and high, x grows to the right and y downwards,
whatever the size of the picture that is drawn of it later.
"""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from .shapes import HOLE_RADIUS, HOLLOW_SHAPES, covered_fraction


CANVAS = 64.0
ATTRIBUTES = ("size", "texture", "colour", "shape")
"""The attributes of an object that language can name, in the order in which English puts them before the noun."""

Item = TypeVar("Item")


class Dice:
    """Reproducible draws from a key.

    They use nothing of `random.Random` but seeding with a string and `random()`, the two that Python promises to keep
    from version to version; `choice`, `shuffle` and `sample` carry no such promise.
    """

    def __init__(self, *key: object) -> None:
        self._random = random.Random("/".join(str(part) for part in key)).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        return sorted(items, key=lambda _: self._random())


@functools.cache
def _look(attributes: tuple[str, ...]) -> operator.attrgetter[Any]:
    return operator.attrgetter(*attributes)


class SceneObject(NamedTuple):
    """One object. `depth` counts up from the back; centre and diameter are in scene units."""

    size: str
    texture: str
    colour: str
    shape: str
    x: float
    y: float
    diameter: float
    depth: int

    def matches(self, description: SceneObject, attributes: Sequence[str]) -> bool:
        """Whether this object has the described values of `attributes` (no attributes: it always has)."""
        if not attributes:
            return True
        look = _look(tuple(attributes))
        return bool(look(self) == look(description))

    def changed(self, **values: str) -> SceneObject:
        """This object with other values of some of `ATTRIBUTES`."""
        fields: dict[str, Any] = dict(values)
        return self._replace(**fields)


class Scene(NamedTuple):
    """Objects from back to front, on a background (a pattern and a colour)."""

    objects: tuple[SceneObject, ...]
    background: str
    pattern: str


@dataclass(frozen=True)
class Level:
    """How hard the scenes are: see docs/scenes.md."""

    num_objects: tuple[int, int]
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    textures: tuple[str, ...]
    patterns: tuple[str, ...]
    large: float  # probability that an object is large
    alike: float  # probability that an attribute is copied from another object of the scene
    inside: float  # probability of a ring or frame with an object in it
    overlap: float  # probability of one object that covers a part of another
    extra_sentences: tuple[int, int]
    grid: float = (
        0.0  # cells of this many units: objects are three cells wide and high and fill whole cells; 0: no grid
    )

    @functools.cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """Every value that each attribute can take at this level."""
        shapes = self.shapes + (HOLLOW_SHAPES if self.inside else ())
        sizes = ("small", "large") if self.large < 1 else ("large",)
        return {"size": sizes, "texture": self.textures, "colour": self.colours, "shape": shapes}

    @functools.cached_property
    def attributes(self) -> tuple[str, ...]:
        """The attributes in which objects of this level can differ: only these are worth words."""
        return tuple(name for name in ATTRIBUTES if len(self.values[name]) > 1)


_COLOURS = ("red", "green", "blue", "yellow", "pink", "cyan", "orange", "purple", "brown")
_SHAPES = ("circle", "square", "triangle", "cross", "star", "heart", "diamond", "crescent", "arrow")
_TEXTURES = ("solid", "striped", "dotted", "checkered", "shaded")

LEVELS = {
    "easy": Level(
        num_objects=(2, 3),
        colours=_COLOURS[:4],
        shapes=_SHAPES[:4],
        textures=_TEXTURES[:1],
        patterns=("plain",),
        large=1.0,
        alike=0.0,
        inside=0.0,
        overlap=0.0,
        extra_sentences=(1, 1),
        grid=8.0,
    ),
    "medium": Level(
        num_objects=(3, 4),
        colours=_COLOURS[:8],
        shapes=_SHAPES[:7],
        textures=_TEXTURES[:4],
        patterns=("plain", "fading"),
        large=0.5,
        alike=0.2,
        inside=0.25,
        overlap=0.0,
        extra_sentences=(2, 3),
    ),
    "hard": Level(
        num_objects=(4, 5),
        colours=_COLOURS,
        shapes=_SHAPES,
        textures=_TEXTURES,
        patterns=("plain", "fading", "grid"),
        large=0.25,
        alike=0.5,
        inside=0.35,
        overlap=0.6,
        extra_sentences=(3, 5),
    ),
}

BACKGROUNDS = ("white", "gray", "black")
DIAMETERS = {"small": (14.0, 17.0), "large": (22.0, 28.0), "host": (32.0, 35.0)}


def _apart(a: SceneObject, b: SceneObject) -> bool:
    """Whether the squares around two objects leave a gap of a unit or more."""
    gap = (a.diameter + b.diameter) / 2 + 1.0
    return abs(a.x - b.x) >= gap or abs(a.y - b.y) >= gap


def _inside(a: SceneObject, b: SceneObject) -> bool:
    room = (HOLE_RADIUS * b.diameter - a.diameter) / 2
    return b.shape in HOLLOW_SHAPES and abs(a.x - b.x) <= room and abs(a.y - b.y) <= room


def _left_of(a: SceneObject, b: SceneObject) -> bool:
    return b.x - a.x >= 8.0 and b.x - a.x >= 0.8 * abs(b.y - a.y) and _apart(a, b)


def _above(a: SceneObject, b: SceneObject) -> bool:
    return b.y - a.y >= 8.0 and b.y - a.y >= 0.8 * abs(b.x - a.x) and _apart(a, b)


def _in_front_of(a: SceneObject, b: SceneObject) -> bool:
    return a.depth > b.depth and not _apart(a, b) and not _inside(a, b)


def _larger(a: SceneObject, b: SceneObject) -> bool:
    return a.size == "large" and b.size == "small"


RELATIONS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left of": _left_of,
    "right of": lambda a, b: _left_of(b, a),
    "above": _above,
    "below": lambda a, b: _above(b, a),
    "inside": _inside,
    "around": lambda a, b: _inside(b, a),
    "in front of": _in_front_of,
    "behind": lambda a, b: _in_front_of(b, a),
    "larger than": _larger,
    "smaller than": lambda a, b: _larger(b, a),
}
"""Relation -> whether it plainly holds. Each is asymmetric: where it holds from a to b, it is false from b to a."""

PLACES = ("left of", "right of", "above", "below", "inside", "around", "in front of", "behind")


def zone_of(thing: SceneObject) -> tuple[str, str]:
    """(column, row) of the picture in which the centre plainly lies; "" where a speaker could hesitate.

    >>> zone_of(SceneObject("small", "solid", "red", "star", x=12.0, y=26.0, diameter=15.0, depth=0))
    ('left', '')
    """
    column = "left" if thing.x <= 24 else "right" if thing.x >= 40 else "middle" if 28 <= thing.x <= 36 else ""
    row = "top" if thing.y <= 24 else "bottom" if thing.y >= 40 else "middle" if 28 <= thing.y <= 36 else ""
    return column, row


def outside_zone(thing: SceneObject, zone: tuple[str, str]) -> bool:
    """Whether it is plainly wrong to say that the object lies in `zone`; an empty part of the zone says nothing."""
    column, row = zone
    return any(
        (part in ("left", "top") and at >= 32)
        or (part in ("right", "bottom") and at <= 32)
        or (part == "middle" and abs(at - 32) >= 12)
        for part, at in ((column, thing.x), (row, thing.y))
    )


def sample_scene(dice: Dice, level: Level) -> Scene:
    """A scene whose objects differ pairwise in their looks and do not touch, but for what `level` allows."""
    background, pattern = dice.pick(BACKGROUNDS), dice.pick(level.patterns)
    count = dice.integer(*level.num_objects)
    hosting, overlapping = dice.chance(level.inside), dice.chance(level.overlap)
    while True:
        looks = _sample_looks(dice, level, count, hosting)
        objects = _placed(dice, looks, hosting, level.grid)
        if objects and overlapping:
            objects = _moved_in_front(dice, objects)
        if objects:
            return Scene(tuple(objects), background, pattern)


def _sample_looks(dice: Dice, level: Level, count: int, hosting: bool) -> list[SceneObject]:
    """Attributes and diameters, no two objects with the same size, texture, colour and shape; host and guest come
    first, then the others from large to small."""
    looks: list[SceneObject] = []
    free = {name: dice.shuffled(values) for name, values in (("colour", level.colours), ("shape", level.shapes))}
    while len(looks) < count:
        size = "large" if dice.chance(level.large) else "small"
        texture, colour, shape = dice.pick(level.textures), free["colour"][len(looks)], free["shape"][len(looks)]
        diameters = DIAMETERS[size]
        if hosting and len(looks) < 2:
            size, diameters = ("small", DIAMETERS["small"]) if looks else ("large", DIAMETERS["host"])
            texture, shape = (texture, shape) if looks else ("solid", dice.pick(HOLLOW_SHAPES))
        elif looks:
            model = dice.pick(looks)
            colour = model.colour if dice.chance(level.alike) else colour
            texture = model.texture if dice.chance(level.alike) else texture
            shape = model.shape if dice.chance(level.alike) and model.shape not in HOLLOW_SHAPES else shape
        diameter = 3 * level.grid or dice.uniform(*diameters)
        look = SceneObject(size, texture, colour, shape, 0.0, 0.0, diameter, 0)
        if not any(look.matches(other, ATTRIBUTES) for other in looks):
            looks.append(look)
    fixed = 2 if hosting else 0
    ordered = looks[:fixed] + sorted(looks[fixed:], key=lambda look: -look.diameter)
    return [look._replace(depth=depth) for depth, look in enumerate(ordered)]


def _placed(dice: Dice, looks: Sequence[SceneObject], hosting: bool, grid: float) -> list[SceneObject] | None:
    objects: list[SceneObject] = []
    for look in looks:
        is_guest = hosting and len(objects) == 1
        placed = _placed_inside(dice, look, objects[0]) if is_guest else _placed_freely(dice, look, objects, grid)
        if placed is None:
            return None
        objects.append(placed)
    return objects


def _placed_freely(dice: Dice, look: SceneObject, others: Sequence[SceneObject], grid: float) -> SceneObject | None:
    margin = look.diameter / 2 + 0.5
    for _ in range(25):
        x, y = dice.uniform(margin, CANVAS - margin), dice.uniform(margin, CANVAS - margin)
        if grid:
            x, y = (x // grid + 0.5) * grid, (y // grid + 0.5) * grid
        placed = look._replace(x=x, y=y)
        if all(_apart(placed, other) for other in others):
            return placed
    return None


def _placed_inside(dice: Dice, look: SceneObject, host: SceneObject) -> SceneObject:
    return look._replace(x=host.x + dice.uniform(-1.5, 1.5), y=host.y + dice.uniform(-1.5, 1.5))


def _moved_in_front(dice: Dice, objects: list[SceneObject]) -> list[SceneObject] | None:
    """The last object moved so that it covers 15 to 40 % of another one, clear of all the rest."""
    *rest, front = objects
    backs = [thing for thing in rest if thing.shape not in HOLLOW_SHAPES and not _guest(thing, rest)]
    if not backs or front.shape in HOLLOW_SHAPES or _guest(front, rest):
        return None
    back = dice.pick(backs)
    reach = (back.diameter + front.diameter) / 2
    margin = front.diameter / 2 + 0.5
    for _ in range(12):
        moved = front._replace(
            x=back.x + dice.uniform(-0.8, 0.8) * reach,
            y=back.y + dice.uniform(-0.8, 0.8) * reach,
        )
        within = min(moved.x, moved.y, CANVAS - moved.x, CANVAS - moved.y) >= margin
        if not within or not all(_apart(moved, other) for other in rest if other is not back):
            continue
        if 0.15 <= covered_fraction(_outline(back), _outline(moved)) <= 0.4:
            return [*rest, moved]
    return None


def _guest(thing: SceneObject, others: Sequence[SceneObject]) -> bool:
    return any(_inside(thing, other) for other in others if other is not thing)


def _outline(thing: SceneObject) -> tuple[str, float, float, float]:
    return thing.shape, thing.x, thing.y, thing.diameter
