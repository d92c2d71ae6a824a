"""The data set of generated scenes: pictures with long captions, phrases with boxes, and hard negatives.

A row follows from (seed, level, index) alone. It needs no download and no file, and it is the same on every machine, in
every worker and for every length of the data set. docs/scenes.md shows the levels and their statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from .captions import plan_caption, short_caption
from .dice import Dice
from .drawing import draw
from .levels import get_level
from .negatives import hard_negatives, phrase_negatives, regions
from .sampling import sample_scene
from .text import CaptionPlan


class SceneDataset(Dataset[dict[str, Any]]):
    """Generated pictures of coloured shapes, with captions, phrases and regions that are true of them.

    A row is a dictionary with these keys:

    - `id`: for example "scenes-medium-0-17".
    - `image`: an RGB image of PIL.
    - `caption`, `sentences`: the long caption, and the sentences that it joins.
    - `short_caption`: one sentence about the whole picture.
    - `phrases`: `{"text", "boxes", "sentence", "kind", "negatives"}`, with kind "noun", "attribute" or "relation". The
      negatives are false of the picture: up to 4 of a noun phrase, 1 of a relation between two objects if that is
      false where they are exchanged, none of other phrases.
    - `regions`: `{"box", "text", "negatives"}`, one for each object, with 10 negatives.
    - `hard_negatives`, `hard_negative_kinds`: 4 captions that are false of the picture, and what is wrong in each.

    Boxes are xyxy pixels, tight around the visible part of the object, without the right and the bottom edge.

    Args:
        num_scenes: Length of the data set. A row is the same whatever the length.
        seed: Data sets of different seeds are independent draws: use one for training and another for testing.
        image_size: Side of the square pictures in pixels, 32 or more. The texts do not depend on it.
        level: "easy", "medium" or "hard".

    Raises:
        ValueError: If the level is unknown, the length is negative, or the pictures are too small to show a texture.
        IndexError: If a row beyond the length is asked for.

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
        self._level = get_level(level)

    @property
    def fingerprint(self) -> str:
        """What a resumed run knows the scenes by: all that they are drawn from."""
        return f"scenes {self.num_scenes} {self.level} {self.seed} {self.image_size}"

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.num_scenes <= index < self.num_scenes:
            raise IndexError(f"index must lie in a data set of {self.num_scenes} scenes, but is {index}")
        index = int(index) % self.num_scenes
        # The steps below draw from the same dice. Their order is part of the data set.
        dice, plan = _plan(self.seed, self.level, index)
        drawing = draw(plan.scene, self.image_size)
        sentences = plan.texts()
        negatives = hard_negatives(dice, plan, self._level)
        phrases = plan.phrases(drawing.boxes)
        row = {
            "id": f"scenes-{self.level}-{self.seed}-{index}",
            "image": Image.fromarray(drawing.pixels),
            "caption": " ".join(sentences),
            "sentences": sentences,
            "short_caption": short_caption(dice, plan.scene, self._level),
            "phrases": phrases,
            "regions": regions(dice, plan.scene, self._level, drawing.boxes),
            "hard_negatives": [negative.caption for negative in negatives],
            "hard_negative_kinds": [negative.kind for negative in negatives],
        }
        # After all other draws, which have been the same since before phrases had negatives.
        negatives_by_phrase = phrase_negatives(dice, plan, self._level)
        for phrase in phrases:
            phrase["negatives"] = negatives_by_phrase.get(phrase["text"], [])
        return row


def scene_captions(num_scenes: int, *, seed: int = 0, level: str = "medium") -> Iterator[str]:
    """Yields the captions of a [`SceneDataset`] without drawing its pictures, for example to train a tokenizer.

    Args:
        num_scenes: How many captions.
        seed: Seed of the data set.
        level: "easy", "medium" or "hard".

    Raises:
        ValueError: If the level is unknown.

    >>> captions = list(scene_captions(2, level="easy"))
    >>> captions[1] == SceneDataset(2, level="easy")[1]["caption"]
    True
    """
    # A generator function would check the level only when the first caption is asked for.
    get_level(level)
    return _captions(num_scenes, seed, level)


def _captions(num_scenes: int, seed: int, level: str) -> Iterator[str]:
    for index in range(num_scenes):
        _, plan = _plan(seed, level, index)
        yield plan.caption()


def _plan(seed: int, level_name: str, index: int) -> tuple[Dice, CaptionPlan]:
    """Plans the caption of a row. Returns the dice too, from which the rest of the row is drawn."""
    dice = Dice("scenes", level_name, seed, index)
    level = get_level(level_name)
    scene = sample_scene(dice, level)
    return dice, plan_caption(dice, scene, level)
