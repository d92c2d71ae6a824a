"""Descriptions of a scene that are false of it by one exchange: of whole captions, and of single objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from .captions import Speaker
from .layout import ATTRIBUTES, PLACES, Dice, Level, Scene, SceneObject
from .text import CaptionPlan


NUM_HARD_NEGATIVES = 4
NUM_REGION_NEGATIVES = 10


def hard_negatives(dice: Dice, plan: CaptionPlan, level: Level) -> list[tuple[str, str]]:
    """Four (kind, caption) pairs: the caption with one exchange, and the scene contradicts every one of them.

    Kinds: an attribute's name (two objects exchange its values), "relation" (two objects exchange their roles in one
    sentence) and "replace" (one object takes a colour that the scene lacks). They take turns in random order, "replace"
    last, so that it serves scenes with fewer than four of the others.
    """
    found = {" ".join(plan.texts()): ""}
    for kind, caption in _candidates(dice, plan, level):
        found.setdefault(caption, kind)
        if len(found) > NUM_HARD_NEGATIVES:
            break
    return [(kind, caption) for caption, kind in found.items() if kind]


def regions(dice: Dice, scene: Scene, level: Level, boxes: list[list[int]]) -> list[dict[str, Any]]:
    """For each object its box, a text that fits it alone, and ten texts that differ from it in one attribute (on the
    easy level, which has few values, some in two) and fit no object of the scene.

    Values that other objects of the scene have come first: confusing an object with its neighbour is the harder error.
    """
    rows = []
    seen = {(name, getattr(thing, name)) for thing in scene.objects for name in ATTRIBUTES}
    for thing in scene.objects:
        mention = Speaker(dice, scene, level).introduce(thing.depth)
        changes = _changes(dice, thing, mention.attributes, level)
        changes.sort(key=lambda change: (len(change), not change.items() <= seen))
        others = (thing.changed(**change) for change in changes)
        false = (
            other for other in others if not any(real.matches(other, mention.attributes) for real in scene.objects)
        )
        negatives = [mention.words(other) for other in itertools.islice(false, NUM_REGION_NEGATIVES)]
        rows.append({"box": boxes[thing.depth], "text": mention.words(thing), "negatives": negatives})
    return rows


def _changes(dice: Dice, thing: SceneObject, attributes: tuple[str, ...], level: Level) -> list[dict[str, str]]:
    """Every other value of one attribute; where these are too few, of colour and shape together as well."""
    others = {name: [value for value in level.values[name] if value != getattr(thing, name)] for name in attributes}
    changes = dice.shuffled([{name: value} for name, values in others.items() for value in values])
    if len(changes) < 2 * NUM_REGION_NEGATIVES:  # some will fit another object of the scene
        pairs = itertools.product(others["colour"], others["shape"])
        changes += dice.shuffled([{"colour": colour, "shape": shape} for colour, shape in pairs])
    return changes


def _candidates(dice: Dice, plan: CaptionPlan, level: Level) -> Iterator[tuple[str, str]]:
    exchanges = [_exchanges(dice, plan, name) for name in ATTRIBUTES] + [_reversals(dice, plan)]
    turns = [*dice.shuffled(exchanges), _replacements(dice, plan, level)]
    while turns:
        candidates = turns.pop(0)
        if candidate := next(candidates, None):
            yield candidate
            turns.append(candidates)


def _exchanges(dice: Dice, plan: CaptionPlan, name: str) -> Iterator[tuple[str, str]]:
    objects = plan.scene.objects
    for first, second in dice.shuffled(tuple(itertools.combinations(objects, 2))):
        if getattr(first, name) != getattr(second, name):
            described = list(objects)
            described[first.depth] = first.changed(**{name: getattr(second, name)})
            described[second.depth] = second.changed(**{name: getattr(first, name)})
            yield from _if_false(plan, name, described)


def _reversals(dice: Dice, plan: CaptionPlan) -> Iterator[tuple[str, str]]:
    for position, sentence in dice.shuffled(tuple(enumerate(plan.sentences))):
        if sentence.claim in PLACES:
            sentences = (*plan.sentences[:position], sentence.reversed(), *plan.sentences[position + 1 :])
            yield from _if_false(plan._replace(sentences=sentences), "relation", list(plan.scene.objects))


def _replacements(dice: Dice, plan: CaptionPlan, level: Level) -> Iterator[tuple[str, str]]:
    objects = plan.scene.objects
    absent = [colour for colour in level.colours if all(thing.colour != colour for thing in objects)]
    for thing, colour in dice.shuffled(tuple(itertools.product(objects, absent))):
        described = list(objects)
        described[thing.depth] = thing._replace(colour=colour)
        yield from _if_false(plan, "replace", described)


def _if_false(plan: CaptionPlan, kind: str, described: list[SceneObject]) -> Iterator[tuple[str, str]]:
    if plan.is_false(described):
        yield kind, " ".join(plan.texts(described))
