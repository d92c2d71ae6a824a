"""Sentences about a scene that know what they claim, so that they can be worded, reworded and checked.

A caption is planned once (`captions.plan_caption`), as sentences whose mentions point at objects. In the words of the
scene's own objects it is the true caption. In the words of other objects, whose attributes were exchanged, it is a hard
negative that keeps everything else, and `CaptionPlan.is_false` tells whether the scene really contradicts it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from .layout import PLACES, RELATIONS, Scene, SceneObject, is_outside_zone
from .levels import ATTRIBUTES


SYNONYMS: dict[str, dict[str, tuple[str, str]]] = {
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "texture": {"solid": ("solid", "plain"), "dotted": ("dotted", "spotted")},
    "shape": {"circle": ("circle", "disc")},
}
"""Attribute → its values that have two words. The word of every other value is the value itself."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
"""The words of the numbers from 0."""

Box = list[int]


class Mention(NamedTuple):
    """A noun phrase for an object that names some of its attributes.

    Args:
        target: Position of the object in its scene.
        attributes: The attributes that are named, in the order of `ATTRIBUTES`.
        article: "a", "the", or "" for none.
        synonym: Choice of words. Bit k is the choice for the k-th of `ATTRIBUTES`. A caption keeps to one choice.
        quantity: Above 1, the noun phrase is a plural that stands for that many objects.
    """

    target: int
    attributes: tuple[str, ...]
    article: str
    synonym: int = 0
    quantity: int = 1

    @property
    def has_noun(self) -> bool:
        """Whether the mention is a noun phrase ("red star", "two red shapes"), not a predicate ("striped and red")."""
        return bool(self.article) or self.quantity > 1

    def words(self, thing: SceneObject) -> str:
        """Returns the noun phrase without its article, with the attributes of an object.

        >>> star = SceneObject("large", "striped", "red", "star", 32.0, 32.0, 25.0, depth=0)
        >>> Mention(0, ("size", "colour", "shape"), "a", synonym=1).words(star)
        'big red star'
        >>> Mention(0, ("texture", "colour"), "").words(star)
        'striped and red'
        >>> Mention(0, ("colour",), "", quantity=2).words(star)
        'two red shapes'
        """
        vocabulary = _vocabulary(self.synonym)
        values = [getattr(thing, name) for name in self.attributes]
        words = [vocabulary.get(value, value) for value in values]
        if self.quantity > 1:
            plural = "shapes"
            if "shape" in self.attributes:
                plural = _plural(words.pop())
            return " ".join([NUMBERS[self.quantity], *words, plural])
        if "shape" in self.attributes:
            return " ".join(words)
        if self.has_noun:
            return " ".join([*words, "shape"])
        return " and ".join(words)

    def text(self, thing: SceneObject) -> str:
        """Returns the noun phrase with its article, with the attributes of an object.

        >>> star = SceneObject("large", "striped", "orange", "star", 32.0, 32.0, 25.0, depth=0)
        >>> Mention(0, ("colour", "shape"), "a").text(star)
        'an orange star'
        """
        words = self.words(thing)
        if not self.article or self.quantity > 1:
            return words
        needs_n = self.article == "a" and words[0] in "aeiou"
        article = "an" if needs_n else self.article
        return f"{article} {words}"


class Sentence(NamedTuple):
    """A sentence that claims something of its mentions.

    Args:
        template: The words, in which {0} and {1} stand for the mentions and {link} for the link.
        mentions: The objects that are named.
        claim: A relation of `RELATIONS` from the first mention to the second; "is", if both are the same object;
            "zone", if the first mention lies in `zone`; or "", if the mentioned objects exist and nothing more.
        link: The words of the relation or the zone.
        zone: Column and row of the picture.
    """

    template: str
    mentions: tuple[Mention, ...] = ()
    claim: str = ""
    link: str = ""
    zone: tuple[str, str] = ("", "")

    def reversed(self) -> Sentence:
        """Returns the sentence with its two mentions in exchanged roles. Each role keeps its article."""
        first, second = self.mentions
        new_first = second._replace(article=first.article)
        new_second = first._replace(article=second.article)
        return self._replace(mentions=(new_first, new_second))


class CaptionPlan(NamedTuple):
    """Holds the sentences of a caption about the objects of a scene.

    Its methods take `described`, one object for each object of the scene: the caption names the attributes of these
    objects. `None` stands for the objects of the scene, with which the caption is true.
    """

    scene: Scene
    sentences: tuple[Sentence, ...]

    def texts(self, described: Sequence[SceneObject] | None = None) -> list[str]:
        """Returns the sentences in words."""
        return [self._in_words(sentence, described or self.scene.objects) for sentence in self.sentences]

    def caption(self, described: Sequence[SceneObject] | None = None) -> str:
        """Returns the whole caption in words."""
        return " ".join(self.texts(described))

    def is_false(self, described: Sequence[SceneObject] | None = None) -> bool:
        """Tells whether the scene plainly contradicts at least one sentence."""
        return any(self.is_contradicted(sentence, described) for sentence in self.sentences)

    def phrases(self, boxes: Sequence[Box]) -> list[dict[str, Any]]:
        """Returns the phrases of the true caption, in order and each text once, with their boxes.

        The boxes of a noun phrase are those of all the objects that it describes. A relation names two objects and has
        one box, the union of theirs.

        Args:
            boxes: The box of each object of the scene.
        """
        phrases: dict[str, dict[str, Any]] = {}
        for number, sentence in enumerate(self.sentences):
            for mention in sentence.mentions:
                text = self.noun_phrase(mention)
                described = self._objects_meant_by(mention, self.scene.objects)
                phrase = {
                    "text": text,
                    "boxes": [boxes[thing.depth] for thing in described],
                    "sentence": number,
                    "kind": "noun" if mention.has_noun else "attribute",
                }
                phrases.setdefault(text, phrase)
            if sentence.claim == "zone" or sentence.claim in PLACES:
                text = self.relation_phrase(sentence)
                union = _union([boxes[mention.target] for mention in sentence.mentions])
                phrases.setdefault(text, {"text": text, "boxes": [union], "sentence": number, "kind": "relation"})
        return list(phrases.values())

    def noun_phrase(self, mention: Mention) -> str:
        """Returns a mention in words without its article: "red star"."""
        return mention.words(self.scene.objects[mention.target])

    def relation_phrase(self, sentence: Sentence) -> str:
        """Returns a relation or a zone as a phrase: "red star above the ring", "red star at the top"."""
        first, *others = [self.noun_phrase(mention) for mention in sentence.mentions]
        return " ".join([first, sentence.link, *(f"the {noun}" for noun in others)])

    def _in_words(self, sentence: Sentence, described: Sequence[SceneObject]) -> str:
        """Returns a sentence in words, with a capital letter."""
        nouns = [mention.text(self._description(mention, described)) for mention in sentence.mentions]
        text = sentence.template.format(*nouns, link=sentence.link)
        return text[0].upper() + text[1:]

    def _description(self, mention: Mention, described: Sequence[SceneObject]) -> SceneObject:
        """Returns the object whose attributes a mention names."""
        # When objects exchange attributes, as many objects as before have them: a plural keeps its true attributes.
        objects = described
        if mention.quantity > 1:
            objects = self.scene.objects
        return objects[mention.target]

    def _objects_meant_by(self, mention: Mention, described: Sequence[SceneObject]) -> list[SceneObject]:
        """Returns the objects of the scene that a mention fits."""
        description = self._description(mention, described)
        return [thing for thing in self.scene.objects if thing.matches(description, mention.attributes)]

    def is_contradicted(self, sentence: Sentence, described: Sequence[SceneObject] | None = None) -> bool:
        """Tells whether a sentence is plainly false, whichever of the fitting objects its mentions mean."""
        objects_described = described or self.scene.objects
        meant = [self._objects_meant_by(mention, objects_described) for mention in sentence.mentions]
        if not all(meant):
            return True
        if sentence.claim == "":
            return False
        subjects = meant[0]
        if sentence.claim == "zone":
            return all(is_outside_zone(subject, sentence.zone) for subject in subjects)
        objects = meant[1]
        if sentence.claim == "is":
            return not any(subject in objects for subject in subjects)
        # A relation that does not hold plainly may still be doubtful. It is wrong if it holds the other way round.
        relation = RELATIONS[sentence.claim]
        pairs = itertools.product(subjects, objects)
        return all(subject is other or relation(other, subject) for subject, other in pairs)


@functools.cache
def _vocabulary(synonym: int) -> dict[str, str]:
    """Returns the word of each value that has two."""
    vocabulary = {}
    for position, name in enumerate(ATTRIBUTES):
        choice = synonym >> position & 1
        for value, words in SYNONYMS.get(name, {}).items():
            vocabulary[value] = words[choice]
    return vocabulary


def _plural(noun: str) -> str:
    return f"{noun}es" if noun == "cross" else f"{noun}s"


def _union(boxes: Sequence[Box]) -> Box:
    """Returns the smallest box around all boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return [min(left), min(top), max(right), max(bottom)]
