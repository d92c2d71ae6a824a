"""The embedded data set: generated scenes with long captions, phrases with boxes and hard negatives.

Everything in a row follows from (seed, level, index): no download, no files, the same rows on every machine, in every
worker and for every length of the data set. docs/scenes.md shows the levels and their statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from .captions import plan_caption, short_caption
from .drawing import draw
from .layout import LEVELS, Dice, Level, sample_scene
from .negatives import hard_negatives, regions
from .text import CaptionPlan


class SceneDataset(Dataset[dict[str, Any]]):
    """Generated pictures of coloured shapes, with everything that is true of them.

    Args:
        num_scenes: Length of the data set. Row i is the same whatever the length.
        seed: Data sets of different seeds are independent draws: use one for training and another for testing.
        image_size: Side of the square pictures in pixels, 32 or more; the texts do not depend on it.
        level: "easy", "medium" or "hard".

    A row holds `id` ("scenes-medium-0-17"), `image` (PIL, RGB), `caption` and its `sentences`, `short_caption`,
    `phrases` (`{"text", "boxes", "sentence", "kind"}`, kind "noun", "attribute" or "relation"), `regions`
    (`{"box", "text", "negatives"}`, one per object with 10 negatives), `hard_negatives` (4 captions that are false of
    the picture) and `hard_negative_kinds` (what was exchanged in each). Boxes are xyxy pixels, tight around what is
    visible of the object, right and bottom edge excluded.

    Raises:
        ValueError: An unknown level, a negative length or a picture too small to show a texture.
        IndexError: A row beyond the length.

    >>> row = SceneDataset(10, seed=0, level="easy")[3]
    >>> row["id"], row["image"].size, len(row["hard_negatives"])
    ('scenes-easy-0-3', (64, 64), 4)
    """

    def __init__(self, num_scenes: int = 1000, *, seed: int = 0, image_size: int = 64, level: str = "medium") -> None:
        if num_scenes < 0:
            raise ValueError(f"num_scenes must be 0 or more, but is {num_scenes}")
        if image_size < 32:
            raise ValueError(f"image_size must be 32 or more pixels, but is {image_size}")
        self.num_scenes = num_scenes
        self.seed = seed
        self.image_size = image_size
        self.level = level
        self._level = _level(level)

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.num_scenes <= index < self.num_scenes:
            raise IndexError(f"index must lie in a data set of {self.num_scenes} scenes, but is {index}")
        index = int(index) % self.num_scenes
        dice, plan = _plan(self.seed, self.level, index)
        drawing = draw(plan.scene, self.image_size)
        sentences = plan.texts()
        negatives = hard_negatives(dice, plan, self._level)
        return {
            "id": f"scenes-{self.level}-{self.seed}-{index}",
            "image": Image.fromarray(drawing.pixels),
            "caption": " ".join(sentences),
            "sentences": sentences,
            "short_caption": short_caption(dice, plan.scene, self._level),
            "phrases": plan.phrases(drawing.boxes),
            "regions": regions(dice, plan.scene, self._level, drawing.boxes),
            "hard_negatives": [caption for _, caption in negatives],
            "hard_negative_kinds": [kind for kind, _ in negatives],
        }


def scene_captions(num_scenes: int, *, seed: int = 0, level: str = "medium") -> Iterator[str]:
    """The captions of `SceneDataset(num_scenes, seed=seed, level=level)` in order, without drawing: for tokenizers.

    >>> captions = list(scene_captions(2, level="easy"))
    >>> captions[1] == SceneDataset(2, level="easy")[1]["caption"]
    True
    """
    _level(level)
    return (" ".join(_plan(seed, level, index)[1].texts()) for index in range(num_scenes))


def _level(name: str) -> Level:
    if name not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, but is {name!r}")
    return LEVELS[name]


def _plan(seed: int, level: str, index: int) -> tuple[Dice, CaptionPlan]:
    dice = Dice("scenes", level, seed, index)
    return dice, plan_caption(dice, sample_scene(dice, LEVELS[level]), LEVELS[level])
