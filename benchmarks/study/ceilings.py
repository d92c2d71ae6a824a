"""
The best R@1 that a model can have: some captions are true of several test scenes.

A model that knows exactly what is true still has to guess among the scenes that a caption is true of, and among the
captions that are true of a scene.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beta_clip_hf import SceneDataset
from beta_clip_hf.data.scenes.captions import plan_caption
from beta_clip_hf.data.scenes.dice import Dice
from beta_clip_hf.data.scenes.layout import RELATIONS, Scene, SceneObject, zone_of
from beta_clip_hf.data.scenes.levels import ATTRIBUTES, get_level
from beta_clip_hf.data.scenes.sampling import sample_scene
from beta_clip_hf.data.scenes.text import NUMBERS, SYNONYMS, CaptionPlan, Mention, Sentence

from .records import RESULTS, rounded, write_record
from .schedules import IMAGE_SIZE


# The words between the objects and the background of a short caption.
_ON = " on a "


class ShortCaption(NamedTuple):
    """What a short caption claims."""

    nouns: tuple[dict[str, str], ...]
    """The values of the attributes of each object that it names."""
    num_objects: int
    background: str
    """The words that follow "on a"; empty if it does not name the background."""


def draw_scene(level_name: str, seed: int, index: int) -> CaptionPlan:
    """Returns the plan of the caption of a row of `SceneDataset`, and with it the scene."""
    level = get_level(level_name)
    # The first draws of a row of SceneDataset. The plan says the caption of the row, which a test holds.
    dice = Dice("scenes", level_name, seed, index)
    scene = sample_scene(dice, level)
    return plan_caption(dice, scene, level)


def background_words(scene: Scene) -> str:
    """Returns how captions name the background, without its article."""
    forms = {"plain": "{} background", "fading": "fading {} background", "grid": "{} background with a grid"}
    return forms[scene.pattern].format(scene.background)


def is_caption_true(plan: CaptionPlan, scene: Scene) -> bool:
    """Tells whether everything that a long caption claims plainly holds in a scene."""
    settings = [sentence for sentence in plan.sentences if not sentence.mentions]
    sentences = [sentence for sentence in plan.sentences if sentence.mentions]
    if not all(_is_setting_true(sentence, plan, scene) for sentence in settings):
        return False
    # A caption means one object by all mentions of a target: some choice of objects must make every sentence true.
    mentioned: set[int] = set()
    for sentence in sentences:
        mentioned.update(mention.target for mention in sentence.mentions)
    targets = sorted(mentioned)
    for choice in itertools.permutations(scene.objects, len(targets)):
        chosen = dict(zip(targets, choice, strict=True))
        if all(_is_sentence_true(sentence, plan.scene, scene, chosen) for sentence in sentences):
            return True
    return False


def _is_setting_true(sentence: Sentence, plan: CaptionPlan, scene: Scene) -> bool:
    """Tells whether a sentence about the whole picture holds. It names the background, and often a number."""
    if (plan.scene.background, plan.scene.pattern) != (scene.background, scene.pattern):
        return False
    is_closing = sentence.template.startswith("the background")
    return is_closing or len(plan.scene.objects) == len(scene.objects)


def _is_sentence_true(sentence: Sentence, described: Scene, scene: Scene, chosen: dict[int, SceneObject]) -> bool:
    """Tells whether a sentence holds if its mentions mean the chosen objects."""
    for mention in sentence.mentions:
        if not _is_mention_true(mention, described, scene, chosen):
            return False
    if sentence.claim in ("", "is"):
        return True
    things = [chosen[mention.target] for mention in sentence.mentions]
    if sentence.claim == "zone":
        zone = zone_of(things[0])
        return all(said in ("", actual) for said, actual in zip(sentence.zone, zone, strict=True))
    return RELATIONS[sentence.claim](things[0], things[1])


def _is_mention_true(mention: Mention, described: Scene, scene: Scene, chosen: dict[int, SceneObject]) -> bool:
    description = described.objects[mention.target]
    if mention.quantity > 1:
        num_fitting = sum(thing.matches(description, mention.attributes) for thing in scene.objects)
        return num_fitting == mention.quantity
    return chosen[mention.target].matches(description, mention.attributes)


def _values_of_words() -> dict[str, tuple[str, str]]:
    """Returns attribute and value of each word that names one."""
    values = {}
    for level_name in ("easy", "medium", "hard"):
        for attribute, names in get_level(level_name).values.items():
            for value in names:
                for word in SYNONYMS.get(attribute, {}).get(value, (value,)):
                    values[word] = (attribute, value)
    return values


def read_short_caption(caption: str) -> ShortCaption:
    """
    Reads what a short caption claims.

    >>> read_short_caption("A red star, a blue disc and two other shapes on a white background.").num_objects
    4
    """
    values = _values_of_words()
    text = caption[0].lower() + caption[1:].removesuffix(".")
    objects, _, background = text.partition(_ON)
    parts = objects.replace(" and ", ", ").split(", ")
    nouns = []
    num_others = 0
    for part in parts:
        article, *words = part.split()
        if words[0] == "other":
            num_others = NUMBERS.index(article)
        else:
            nouns.append(dict(values[word] for word in words))
    return ShortCaption(tuple(nouns), len(nouns) + num_others, background)


def _look(thing: SceneObject) -> dict[str, str]:
    """Returns the value of each attribute of an object."""
    return {name: getattr(thing, name) for name in ATTRIBUTES}


def is_short_caption_true(short: ShortCaption, scene: Scene) -> bool:
    """Tells whether everything that a short caption claims holds in a scene."""
    if short.num_objects != len(scene.objects):
        return False
    if short.background and short.background != background_words(scene):
        return False
    looks = [_look(thing) for thing in scene.objects]
    for choice in itertools.permutations(looks, len(short.nouns)):
        pairs = zip(short.nouns, choice, strict=True)
        if all(noun.items() <= look.items() for noun, look in pairs):
            return True
    return False


def truth_table(captions: Sequence[Any], scenes: Sequence[Scene], is_true: Callable[[Any, Scene], bool]) -> Tensor:
    """Returns (T, B) bool: which captions are true of which scenes."""
    rows = []
    for caption in captions:
        rows.append([is_true(caption, scene) for scene in scenes])
    return torch.tensor(rows)


def ceilings(level: str, seed: int, num_scenes: int) -> dict[str, Any]:
    """Computes the ceilings of R@1 of long and short captions on some test scenes, ready for JSON."""
    rows = SceneDataset(num_scenes, seed=seed, level=level, image_size=IMAGE_SIZE)
    short_texts = [rows[index]["short_caption"] for index in range(num_scenes)]
    plans = [draw_scene(level, seed, index) for index in range(num_scenes)]
    scenes = [plan.scene for plan in plans]
    short_captions = [read_short_caption(text) for text in short_texts]
    return {
        "level": level,
        "test": {"seed": seed, "scenes": num_scenes},
        "long": _ceiling([plan.caption() for plan in plans], truth_table(plans, scenes, is_caption_true)),
        "short": _ceiling(short_texts, truth_table(short_captions, scenes, is_short_caption_true)),
    }


def _ceiling(texts: Sequence[str], is_true_TB: Tensor) -> dict[str, float | None]:
    """Returns the best R@1 if only equal texts are tied, and if all that is true is tied."""
    shares_T = 1 / is_true_TB.sum(dim=1).double()
    shares_B = 1 / is_true_TB.sum(dim=0).double()
    return {
        "identical": rounded(len(set(texts)) / len(texts)),
        "text_to_image": rounded(float(shares_T.mean())),
        "image_to_text": rounded(float(shares_B.mean())),
    }


def ceilings_path(level: str) -> Path:
    """Returns the file of the ceilings of a level."""
    return RESULTS / f"ceilings_{level}.json"


def write_ceilings(level: str, seed: int, num_scenes: int) -> Path:
    """Writes the ceilings of the test scenes of the report."""
    return write_record(ceilings(level, seed, num_scenes), ceilings_path(level))
