"""Draws scenes: the looks of their objects first, then their places.

The order of the draws is part of the data set (see `Dice`).
"""

from __future__ import annotations

from collections.abc import Sequence

from .dice import Dice
from .layout import CANVAS, Scene, SceneObject, is_apart, is_inside
from .levels import ATTRIBUTES, BACKGROUNDS, DIAMETERS, Level
from .shapes import HOLLOW_SHAPES, covered_fraction


# A host and its guest come first among the objects of a scene.
_HOST, _GUEST = 0, 1


def sample_scene(dice: Dice, level: Level) -> Scene:
    """Draws a scene. No two objects look the same, and they touch only where the level lets them."""
    background = dice.pick(BACKGROUNDS)
    pattern = dice.pick(level.patterns)
    num_objects = dice.integer(*level.num_objects)
    has_host = dice.chance(level.inside)
    has_overlap = dice.chance(level.overlap)
    # Some looks find no place: then other looks are drawn.
    while True:
        looks = _sample_looks(dice, level, num_objects, has_host)
        objects = _place(dice, looks, has_host, level.grid)
        if objects and has_overlap:
            objects = _move_in_front(dice, objects)
        if objects:
            return Scene(tuple(objects), background, pattern)


def _sample_looks(dice: Dice, level: Level, num_objects: int, has_host: bool) -> list[SceneObject]:
    """Draws the looks of all objects of a scene. No two have the same size, texture, colour and shape.

    Host and guest come first, then the others from large to small, because large objects find a place less easily.
    """
    looks: list[SceneObject] = []
    # Without copies, each object has a colour and a shape of its own.
    colours = dice.shuffled(level.colours)
    shapes = dice.shuffled(level.shapes)
    while len(looks) < num_objects:
        look = _sample_look(dice, level, colours[len(looks)], shapes[len(looks)])
        diameters = DIAMETERS[look.size]
        if has_host and len(looks) == _HOST:
            look = look._replace(size="large", texture="solid", shape=dice.pick(HOLLOW_SHAPES))
            diameters = DIAMETERS["host"]
        elif has_host and len(looks) == _GUEST:
            look = look._replace(size="small")
            diameters = DIAMETERS["small"]
        elif looks:
            look = _copy_attributes(dice, look, dice.pick(looks), level.alike)
        diameter = 3 * level.grid or dice.uniform(*diameters)
        look = look._replace(diameter=diameter)
        if not any(look.matches(other, ATTRIBUTES) for other in looks):
            looks.append(look)
    num_fixed = 2 if has_host else 0
    others = sorted(looks[num_fixed:], key=lambda look: -look.diameter)
    ordered = looks[:num_fixed] + others
    return [look._replace(depth=depth) for depth, look in enumerate(ordered)]


def _sample_look(dice: Dice, level: Level, colour: str, shape: str) -> SceneObject:
    """Draws the size and the texture of an object. Its place and diameter are still open."""
    size = "large" if dice.chance(level.large) else "small"
    texture = dice.pick(level.textures)
    return SceneObject(size, texture, colour, shape, x=0.0, y=0.0, diameter=0.0, depth=0)


def _copy_attributes(dice: Dice, look: SceneObject, model: SceneObject, probability: float) -> SceneObject:
    """Copies colour, texture and shape from another object, each with a probability."""
    copies_colour = dice.chance(probability)
    copies_texture = dice.chance(probability)
    copies_shape = dice.chance(probability)
    if copies_colour:
        look = look._replace(colour=model.colour)
    if copies_texture:
        look = look._replace(texture=model.texture)
    # Only hosts are hollow.
    if copies_shape and model.shape not in HOLLOW_SHAPES:
        look = look._replace(shape=model.shape)
    return look


def _place(dice: Dice, looks: Sequence[SceneObject], has_host: bool, grid: float) -> list[SceneObject] | None:
    """Gives each object a place, or returns `None` if one finds none."""
    objects: list[SceneObject] = []
    for look in looks:
        if has_host and len(objects) == _GUEST:
            placed: SceneObject | None = _place_inside(dice, look, objects[_HOST])
        else:
            placed = _place_freely(dice, look, objects, grid)
        if placed is None:
            return None
        objects.append(placed)
    return objects


def _place_freely(dice: Dice, look: SceneObject, others: Sequence[SceneObject], grid: float) -> SceneObject | None:
    """Places an object apart from the others, or returns `None` after many misses."""
    margin = look.diameter / 2 + 0.5
    for _ in range(25):
        x = dice.uniform(margin, CANVAS - margin)
        y = dice.uniform(margin, CANVAS - margin)
        if grid > 0:
            x = (x // grid + 0.5) * grid
            y = (y // grid + 0.5) * grid
        placed = look._replace(x=x, y=y)
        if all(is_apart(placed, other) for other in others):
            return placed
    return None


def _place_inside(dice: Dice, look: SceneObject, host: SceneObject) -> SceneObject:
    """Places an object near the centre of its host."""
    return look._replace(x=host.x + dice.uniform(-1.5, 1.5), y=host.y + dice.uniform(-1.5, 1.5))


def _move_in_front(dice: Dice, objects: list[SceneObject]) -> list[SceneObject] | None:
    """Moves the last object so that it covers 15 to 40 % of another one, and stays apart from all the rest.

    Returns `None` if that cannot be done, or not within a few tries.
    """
    *rest, front = objects
    coverable = [thing for thing in rest if _may_overlap(thing, rest)]
    if not coverable or not _may_overlap(front, rest):
        return None
    back = dice.pick(coverable)
    others = [thing for thing in rest if thing is not back]
    reach = (back.diameter + front.diameter) / 2
    for _ in range(12):
        x = back.x + dice.uniform(-0.8, 0.8) * reach
        y = back.y + dice.uniform(-0.8, 0.8) * reach
        moved = front._replace(x=x, y=y)
        if not _is_on_canvas(moved) or not all(is_apart(moved, other) for other in others):
            continue
        if 0.15 <= covered_fraction(back.outline, moved.outline) <= 0.4:
            return [*rest, moved]
    return None


def _is_on_canvas(thing: SceneObject) -> bool:
    """Tells whether an object keeps half a unit from the edges of the canvas."""
    margin = thing.diameter / 2 + 0.5
    return min(thing.x, thing.y, CANVAS - thing.x, CANVAS - thing.y) >= margin


def _may_overlap(thing: SceneObject, objects: Sequence[SceneObject]) -> bool:
    """Tells whether an object is neither a host nor a guest: these overlap already."""
    is_guest = any(is_inside(thing, other) for other in objects if other is not thing)
    return thing.shape not in HOLLOW_SHAPES and not is_guest
