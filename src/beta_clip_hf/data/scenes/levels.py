"""The levels of the generated scenes: how many objects, which colours and shapes, how alike and how close."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .shapes import HOLLOW_SHAPES


ATTRIBUTES = ("size", "texture", "colour", "shape")
"""The attributes of an object that words can name, in the order in which English puts them before the noun."""

BACKGROUNDS = ("white", "gray", "black")
DIAMETERS = {"small": (14.0, 17.0), "large": (22.0, 28.0), "host": (32.0, 35.0)}
"""Size → the smallest and the largest diameter in scene units. A host is a large object with another one inside."""


@dataclass(frozen=True)
class Level:
    """Sets how hard the scenes are. docs/scenes.md has a picture and statistics of each level.

    Args:
        num_objects: Smallest and largest number of objects.
        colours: Colours of objects.
        shapes: Shapes of objects, besides those of hosts.
        textures: Textures of objects.
        patterns: Patterns of the background.
        large: Probability that an object is large.
        alike: Probability that an attribute is copied from another object of the scene.
        inside: Probability of a host: a ring or frame with an object inside.
        overlap: Probability of one object that covers a part of another.
        extra_sentences: Smallest and largest number of sentences beyond those that introduce the objects.
        grid: Side of the cells of a grid in scene units. Objects are three cells wide and high and fill whole cells.
            0 stands for no grid.
    """

    num_objects: tuple[int, int]
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    textures: tuple[str, ...]
    patterns: tuple[str, ...]
    large: float
    alike: float
    inside: float
    overlap: float
    extra_sentences: tuple[int, int]
    grid: float = 0.0

    @functools.cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """Attribute → every value that it can take at this level."""
        shapes = self.shapes
        if self.inside > 0:
            shapes += HOLLOW_SHAPES
        sizes: tuple[str, ...] = ("large",)
        if self.large < 1:
            sizes = ("small", "large")
        return {"size": sizes, "texture": self.textures, "colour": self.colours, "shape": shapes}

    @functools.cached_property
    def attributes(self) -> tuple[str, ...]:
        """The attributes in which objects of this level can differ. Only these are worth words."""
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
"""Name → level."""


def get_level(name: str) -> Level:
    """Returns the level with a name.

    Raises:
        ValueError: If there is no such level.
    """
    if name not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, but is {name!r}")
    return LEVELS[name]
