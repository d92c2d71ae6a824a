"""Sentences about a scene that know what they claim, so that they can be worded, reworded and checked.

A caption is planned once (`captions.plan_caption`) as sentences whose mentions point at objects. Worded with the
scene's own objects it is the true caption; worded with `described` objects whose attributes were exchanged it is a hard
negative in the same words, and `CaptionPlan.is_false` tells whether the scene really contradicts it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from .layout import ATTRIBUTES, PLACES, RELATIONS, Scene, SceneObject, outside_zone


SYNONYMS: dict[str, dict[str, tuple[str, str]]] = {
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "texture": {"solid": ("solid", "plain"), "dotted": ("dotted", "spotted")},
    "shape": {"circle": ("circle", "disc")},
}
"""Attribute -> its values that have two words; all others have one word, their own."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


class Mention(NamedTuple):
    """A noun phrase for object number `target` that names some of its attributes (in the order of `ATTRIBUTES`).

    `article` is "a", "the" or "" for none; `quantity` > 1 makes it a plural that stands for that many objects. Bit k of
    `synonym` says which word the k-th of `ATTRIBUTES` takes: the same bits throughout a caption keep to the same words.
    """

    target: int
    attributes: tuple[str, ...]
    article: str
    synonym: int = 0
    quantity: int = 1

    def words(self, thing: SceneObject) -> str:
        """The mention without its article, with the values of `thing`.

        >>> star = SceneObject("large", "striped", "red", "star", 32.0, 32.0, 25.0, depth=0)
        >>> Mention(0, ("size", "colour", "shape"), "a", synonym=1).words(star)
        'big red star'
        >>> Mention(0, ("texture", "colour"), "").words(star)
        'striped and red'
        """
        vocabulary = _vocabulary(self.synonym)
        values = [getattr(thing, name) for name in self.attributes]
        words = [vocabulary.get(value, value) for value in values]
        if self.quantity > 1:
            plural = _plural(words.pop()) if "shape" in self.attributes else "shapes"
            return " ".join([NUMBERS[self.quantity], *words, plural])
        if "shape" in self.attributes:
            return " ".join(words)
        return " ".join([*words, "shape"]) if self.article else " and ".join(words)

    def text(self, thing: SceneObject) -> str:
        words = self.words(thing)
        article = "an" if self.article == "a" and words[0] in "aeiou" else self.article
        return f"{article} {words}" if article and self.quantity == 1 else words


class Sentence(NamedTuple):
    """A sentence that claims something of its mentions.

    `claim` is a relation of `RELATIONS` from the first mention to the second, "is" (both are the same object), "zone"
    (the first mention lies in `zone`) or "" (no more than that the mentioned objects exist). `link` is the wording of
    the relation or the zone; in the template, {0} and {1} stand for the mentions and {link} for the link.
    """

    template: str
    mentions: tuple[Mention, ...] = ()
    claim: str = ""
    link: str = ""
    zone: tuple[str, str] = ("", "")

    def reversed(self) -> Sentence:
        """The two mentions in exchanged roles; each role keeps its article."""
        first, second = self.mentions
        swapped = (second._replace(article=first.article), first._replace(article=second.article))
        return self._replace(mentions=swapped)


class CaptionPlan(NamedTuple):
    """The sentences of one caption, about the objects of one scene."""

    scene: Scene
    sentences: tuple[Sentence, ...]

    def texts(self, described: Sequence[SceneObject] | None = None) -> list[str]:
        """The sentences in words; `described` (one per object of the scene) gives them other attributes to name."""
        return [self._worded(sentence, described or self.scene.objects) for sentence in self.sentences]

    def is_false(self, described: Sequence[SceneObject] | None = None) -> bool:
        """Whether the scene plainly contradicts at least one sentence of the caption so worded."""
        return any(self._contradicted(sentence, described or self.scene.objects) for sentence in self.sentences)

    def phrases(self, boxes: Sequence[list[int]]) -> list[dict[str, Any]]:
        """Phrases of the caption in order, each text once, with the boxes of every object that it describes.

        A relation's phrase names both objects and has one box, the union of theirs.
        """
        found: dict[str, dict[str, Any]] = {}
        for number, sentence in enumerate(self.sentences):
            for mention in sentence.mentions:
                noun = mention.words(self.scene.objects[mention.target])
                kind = "noun" if mention.article or mention.quantity > 1 else "attribute"
                held = [boxes[thing.depth] for thing in self._meant(mention, self.scene.objects)]
                found.setdefault(noun, {"text": noun, "boxes": held, "sentence": number, "kind": kind})
            if sentence.claim == "zone" or sentence.claim in PLACES:
                first, *second = [mention.words(self.scene.objects[mention.target]) for mention in sentence.mentions]
                text = " ".join([first, sentence.link, *(f"the {noun}" for noun in second)])
                union = _union([boxes[mention.target] for mention in sentence.mentions])
                found.setdefault(text, {"text": text, "boxes": [union], "sentence": number, "kind": "relation"})
        return list(found.values())

    def _worded(self, sentence: Sentence, described: Sequence[SceneObject]) -> str:
        nouns = [mention.text(self._described(mention, described)) for mention in sentence.mentions]
        text = sentence.template.format(*nouns, link=sentence.link)
        return text[0].upper() + text[1:]

    def _described(self, mention: Mention, described: Sequence[SceneObject]) -> SceneObject:
        """Exchanging attributes between objects does not change how many have them: a plural keeps the true values."""
        return self.scene.objects[mention.target] if mention.quantity > 1 else described[mention.target]

    def _meant(self, mention: Mention, described: Sequence[SceneObject]) -> list[SceneObject]:
        description = self._described(mention, described)
        return [thing for thing in self.scene.objects if thing.matches(description, mention.attributes)]

    def _contradicted(self, sentence: Sentence, described: Sequence[SceneObject]) -> bool:
        meant = [self._meant(mention, described) for mention in sentence.mentions]
        if not all(meant):
            return True
        if sentence.claim == "is":
            return not any(thing in meant[1] for thing in meant[0])
        if sentence.claim == "zone":
            return all(outside_zone(thing, sentence.zone) for thing in meant[0])
        if sentence.claim:
            relation = RELATIONS[sentence.claim]
            return all(first is second or relation(second, first) for first, second in itertools.product(*meant))
        return False


@functools.cache
def _vocabulary(synonym: int) -> dict[str, str]:
    return {
        value: words[synonym >> ATTRIBUTES.index(name) & 1]
        for name, values in SYNONYMS.items()
        for value, words in values.items()
    }


def _plural(noun: str) -> str:
    return f"{noun}es" if noun == "cross" else f"{noun}s"


def _union(boxes: Sequence[list[int]]) -> list[int]:
    left, top, right, bottom = zip(*boxes, strict=True)
    return [min(left), min(top), max(right), max(bottom)]
