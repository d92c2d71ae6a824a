"""Descriptions of a scene that one exchange makes false: of whole captions, and of single objects.

The order of the draws is part of the data set (see `Dice`). The generators below draw when their first candidate is
asked for, so that order depends on when each one is asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from .captions import Speaker
from .dice import Dice
from .layout import PLACES, Scene, SceneObject
from .levels import ATTRIBUTES, Level
from .text import Box, CaptionPlan, Mention


NUM_HARD_NEGATIVES = 4
NUM_REGION_NEGATIVES = 10
NUM_PHRASE_NEGATIVES = 4


class HardNegative(NamedTuple):
    """A false caption and what is wrong in it."""

    kind: str
    caption: str


def hard_negatives(dice: Dice, plan: CaptionPlan, level: Level) -> list[HardNegative]:
    """Returns four captions, each with one exchange and contradicted by the scene.

    The kinds are the name of an attribute (two objects exchange its values), "relation" (two objects exchange their
    roles in one sentence) and "replace" (an object takes a colour that the scene lacks). They take turns in random
    order. "replace" comes last, for scenes with fewer than four of the others.
    """
    negatives: dict[str, HardNegative] = {}
    true_caption = plan.caption()
    for candidate in _candidates(dice, plan, level):
        if candidate.caption != true_caption:
            negatives.setdefault(candidate.caption, candidate)
        if len(negatives) == NUM_HARD_NEGATIVES:
            break
    return list(negatives.values())


def regions(dice: Dice, scene: Scene, level: Level, boxes: list[Box]) -> list[dict[str, Any]]:
    """Returns for each object its box, a text that fits it alone, and ten texts that fit no object of the scene.

    A negative differs from the text in one attribute. On the easy level, which has few values, some differ in two.
    Values that other objects of the scene have come first: confusing an object with its neighbour is the harder error.
    """
    rows = []
    seen = _values_seen(scene)
    for thing in scene.objects:
        mention = Speaker(dice, scene, level).introduce(thing.depth)
        changes = _changes(dice, thing, mention.attributes, level)
        changes.sort(key=lambda change: (len(change), not change.items() <= seen))
        negatives: list[str] = []
        for change in changes:
            if len(negatives) == NUM_REGION_NEGATIVES:
                break
            changed = thing.changed(**change)
            if not any(other.matches(changed, mention.attributes) for other in scene.objects):
                negatives.append(mention.words(changed))
        rows.append({"box": boxes[thing.depth], "text": mention.words(thing), "negatives": negatives})
    return rows


def phrase_negatives(dice: Dice, plan: CaptionPlan, level: Level) -> dict[str, list[str]]:
    """Returns texts that are false of the scene in nearly the words of its phrases, by the text of the phrase.

    A relation between two objects has one negative, in which they are exchanged, if the scene contradicts it. A noun
    phrase has up to four, each with another value of one attribute, which no object of the scene fits.
    """
    seen = _values_seen(plan.scene)
    negatives: dict[str, list[str]] = {}
    for sentence in plan.sentences:
        for mention in sentence.mentions:
            text = plan.noun_phrase(mention)
            if mention.has_noun and text not in negatives:
                negatives[text] = _false_nouns(dice, plan.scene, level, mention, seen)
        if sentence.claim in PLACES:
            exchanged = sentence.reversed()
            if plan.is_contradicted(exchanged):
                negatives[plan.relation_phrase(sentence)] = [plan.relation_phrase(exchanged)]
    return negatives


def _values_seen(scene: Scene) -> set[tuple[str, str]]:
    """Returns the attributes of all objects of a scene with their values."""
    seen: set[tuple[str, str]] = set()
    for thing in scene.objects:
        seen.update((name, getattr(thing, name)) for name in ATTRIBUTES)
    return seen


def _false_nouns(dice: Dice, scene: Scene, level: Level, mention: Mention, seen: set[tuple[str, str]]) -> list[str]:
    """Returns a mention in other words, none of which fit an object. Values that the scene has come first."""
    thing = scene.objects[mention.target]
    changes = []
    for name in mention.attributes:
        kept_attributes = [other_name for other_name in mention.attributes if other_name != name]
        # With one of these values the mention fits an object, maybe another one.
        true_values = {getattr(other, name) for other in scene.objects if other.matches(thing, kept_attributes)}
        changes += [(name, value) for value in level.values[name] if value not in true_values]
    chosen = sorted(dice.shuffled(changes), key=lambda change: change not in seen)[:NUM_PHRASE_NEGATIVES]
    return [mention.words(thing.changed(**{name: value})) for name, value in chosen]


def _changes(dice: Dice, thing: SceneObject, attributes: tuple[str, ...], level: Level) -> list[dict[str, str]]:
    """Returns every change of one attribute, and of colour and shape together if these are too few."""
    other_values = {}
    single_changes = []
    for name in attributes:
        other_values[name] = [value for value in level.values[name] if value != getattr(thing, name)]
        single_changes += [{name: value} for value in other_values[name]]
    changes = dice.shuffled(single_changes)
    # Twice as many as are needed, because some will fit another object of the scene.
    if len(changes) < 2 * NUM_REGION_NEGATIVES:
        pairs = itertools.product(other_values["colour"], other_values["shape"])
        changes += dice.shuffled([{"colour": colour, "shape": shape} for colour, shape in pairs])
    return changes


def _candidates(dice: Dice, plan: CaptionPlan, level: Level) -> Iterator[HardNegative]:
    """Yields false captions, of each kind in turn."""
    exchanges = [_exchanges(dice, plan, name) for name in ATTRIBUTES]
    turns = dice.shuffled([*exchanges, _reversals(dice, plan)])
    turns.append(_replacements(dice, plan, level))
    while turns:
        candidates = turns.pop(0)
        candidate = next(candidates, None)
        if candidate is not None:
            yield candidate
            turns.append(candidates)


def _exchanges(dice: Dice, plan: CaptionPlan, name: str) -> Iterator[HardNegative]:
    """Yields false captions in which two objects exchange their values of an attribute."""
    objects = plan.scene.objects
    for first, second in dice.shuffled(tuple(itertools.combinations(objects, 2))):
        if getattr(first, name) != getattr(second, name):
            described = list(objects)
            described[first.depth] = first.changed(**{name: getattr(second, name)})
            described[second.depth] = second.changed(**{name: getattr(first, name)})
            yield from _if_false(plan, name, described)


def _reversals(dice: Dice, plan: CaptionPlan) -> Iterator[HardNegative]:
    """Yields false captions in which two objects exchange their roles in a sentence."""
    for position, sentence in dice.shuffled(tuple(enumerate(plan.sentences))):
        if sentence.claim in PLACES:
            sentences = list(plan.sentences)
            sentences[position] = sentence.reversed()
            reversed_plan = plan._replace(sentences=tuple(sentences))
            yield from _if_false(reversed_plan, "relation", list(plan.scene.objects))


def _replacements(dice: Dice, plan: CaptionPlan, level: Level) -> Iterator[HardNegative]:
    """Yields false captions in which an object has a colour that the scene lacks."""
    objects = plan.scene.objects
    present = {thing.colour for thing in objects}
    absent = [colour for colour in level.colours if colour not in present]
    for thing, colour in dice.shuffled(tuple(itertools.product(objects, absent))):
        described = list(objects)
        described[thing.depth] = thing.changed(colour=colour)
        yield from _if_false(plan, "replace", described)


def _if_false(plan: CaptionPlan, kind: str, described: list[SceneObject]) -> Iterator[HardNegative]:
    """Yields the caption in the words of other objects, if the scene contradicts it."""
    if plan.is_false(described):
        yield HardNegative(kind, plan.caption(described))
