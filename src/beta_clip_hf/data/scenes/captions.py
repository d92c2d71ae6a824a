"""Plans what a caption says about a scene: which sentences, in which words and in which order.

The order of the draws is part of the data set (see `Dice`).
"""

from __future__ import annotations

from collections.abc import Sequence

from .dice import Dice
from .layout import PLACES, RELATIONS, Scene, SceneObject, zone_of
from .levels import ATTRIBUTES, Level
from .text import NUMBERS, CaptionPlan, Mention, Sentence


# Relation → its wordings.
_LINKS: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "higher than"),
    "below": ("below", "under", "lower than"),
    "inside": ("inside", "within"),
    "around": ("around",),
    "in front of": ("in front of", "partly covering"),
    "behind": ("behind", "partly covered by"),
    "larger than": ("larger than", "bigger than"),
    "smaller than": ("smaller than",),
}

# (column, row) → its wordings. No sentence names a zone that is absent here.
_ZONES: dict[tuple[str, str], tuple[str, ...]] = {
    ("left", "top"): ("in the upper left corner", "at the top left"),
    ("right", "top"): ("in the upper right corner", "at the top right"),
    ("left", "bottom"): ("in the lower left corner", "at the bottom left"),
    ("right", "bottom"): ("in the lower right corner", "at the bottom right"),
    ("middle", "middle"): ("in the middle", "in the center"),
    ("left", ""): ("on the left", "on the left side"),
    ("right", ""): ("on the right", "on the right side"),
    ("", "top"): ("at the top", "near the top"),
    ("", "bottom"): ("at the bottom", "near the bottom"),
}

# Sentences about the whole picture.
_OPENINGS = (
    "the picture shows {count} {shapes} on {background}.",
    "there are {count} {shapes} on {background}.",
    "{count} {shapes} are drawn on {background}.",
    "this is a picture of {count} {shapes} on {background}.",
    "we see {count} {shapes} on {background}.",
)
_BACKGROUNDS = {"plain": "a {} background", "fading": "a fading {} background", "grid": "a {} background with a grid"}
_CLOSINGS = {"plain": "is {}", "fading": "is {} and fading", "grid": "is {} and has a grid"}

# Templates of sentences that introduce an object: by its zone, by its relation to a known one, or without a place.
_PLACED = (
    "{0} is {link}.",
    "{link} there is {0}.",
    "there is {0} {link}.",
    "{0} can be seen {link}.",
    "{link} we see {0}.",
)
_RELATED = (
    "{0} is {link} {1}.",
    "{link} {1} there is {0}.",
    "there is {0} {link} {1}.",
    "{0} can be seen {link} {1}.",
    "{link} {1} we see {0}.",
)
_EXISTS = ("there is {0}.", "the picture contains {0}.", "we also see {0}.", "{0} can be seen.")
# Templates about objects that are known already.
_RELATED_KNOWN = ("{0} is {link} {1}.", "{link} {1} is {0}.", "{0} can be seen {link} {1}.")
# Templates about the number of objects.
_COUNTED = ("there are {0}.", "the picture contains {0}.", "{0} can be seen.")

# Attributes by which a sentence may refer to a known object.
_REFERENCES = (
    ("shape",),
    ("colour",),
    ("size", "shape"),
    ("texture", "shape"),
    ("colour", "shape"),
    ("texture", "colour"),
    ("size", "colour"),
    ("size", "colour", "shape"),
    ("texture", "colour", "shape"),
)


def plan_caption(dice: Dice, scene: Scene, level: Level) -> CaptionPlan:
    """Plans the long caption of a scene.

    It introduces the objects one after the other in any order, each by its place in the picture or by its relation to
    an object that was introduced before. More claims about them stand in between. The background comes first or last.
    """
    return CaptionPlan(scene, tuple(Speaker(dice, scene, level).sentences()))


def short_caption(dice: Dice, scene: Scene, level: Level) -> str:
    """Returns a sentence that names up to three objects, counts the others, and sometimes names the background."""
    speaker = Speaker(dice, scene, level)
    order = dice.shuffled(range(len(scene.objects)))
    nouns = [speaker.introduce(index, size_chance=0.0).text(scene.objects[index]) for index in order[:3]]
    num_others = len(order) - len(nouns)
    if num_others > 0:
        plural = "s" if num_others > 1 else ""
        nouns.append(f"{NUMBERS[num_others]} other shape{plural}")
    text = f"{', '.join(nouns[:-1])} and {nouns[-1]}"
    if dice.chance(0.5):
        text += f" on {_BACKGROUNDS[scene.pattern].format(scene.background)}"
    return f"{text[0].upper()}{text[1:]}."


class Speaker:
    """Talks about a scene, with one choice among synonyms.

    Args:
        dice: Draws all choices.
        scene: The scene.
        level: The level of the scene. It says which attributes are worth words.
    """

    def __init__(self, dice: Dice, scene: Scene, level: Level) -> None:
        self.dice = dice
        self.scene = scene
        self.level = level
        # One bit for each attribute: who says "little" once does not say "small" later.
        self.synonym = dice.integer(0, 2 ** len(ATTRIBUTES) - 1)

    def sentences(self) -> list[Sentence]:
        """Returns the sentences of a long caption."""
        known: list[int] = []
        sentences: list[Sentence] = []
        for index in self.dice.shuffled(range(len(self.scene.objects))):
            sentences.append(self._introduction(index, known))
            known.append(index)
        num_extra = self.dice.integer(*self.level.extra_sentences)
        # Every caption says where one object lies from another, so that a hard negative can reverse it.
        if not any(sentence.claim in PLACES for sentence in sentences):
            sentences = self._insert(sentences, self._relation(PLACES))
            num_extra -= 1
        for _ in range(num_extra):
            sentences = self._insert(sentences, self._extra())
        return self._with_background(sentences)

    def introduce(self, index: int, *, size_chance: float = 0.5) -> Mention:
        """Returns an indefinite noun phrase that fits one object alone.

        It names colour and shape, and often texture and size. If that fits other objects too, it names everything.

        Args:
            index: Position of the object in the scene.
            size_chance: Probability that the size is named.
        """
        thing = self.scene.objects[index]
        named = {"colour", "shape"}
        # That an object is solid goes almost without saying.
        if thing.texture != "solid" or self.dice.chance(0.25):
            named.add("texture")
        if self.dice.chance(size_chance):
            named.add("size")
        attributes = tuple(name for name in self.level.attributes if name in named)
        if not self._fits_only(thing, attributes):
            attributes = ATTRIBUTES
        return Mention(index, attributes, "a", self.synonym)

    def _refer(self, index: int) -> Mention:
        """Returns a definite noun phrase that fits one object alone, often shorter than its introduction."""
        thing = self.scene.objects[index]
        worth_words = set(self.level.attributes) - _unspoken(thing)
        for attributes in self.dice.shuffled(_REFERENCES):
            if worth_words.issuperset(attributes) and self._fits_only(thing, attributes):
                return Mention(index, attributes, "the", self.synonym)
        return Mention(index, ATTRIBUTES, "the", self.synonym)

    def _fits_only(self, thing: SceneObject, attributes: Sequence[str]) -> bool:
        """Tells whether no other object has the same values of some attributes."""
        num_fitting = sum(other.matches(thing, attributes) for other in self.scene.objects)
        return num_fitting == 1

    def _introduction(self, index: int, known: Sequence[int]) -> Sentence:
        """Returns a sentence that introduces an object by its relation to a known one, or by its place."""
        mention = self.introduce(index)
        if known and self.dice.chance(0.55):
            other = self.dice.pick(known)
            relations = self._relations_between(index, other, PLACES)
            if relations:
                claim = self.dice.pick(relations)
                mentions = (mention, self._refer(other))
                template = self.dice.pick(_RELATED)
                return Sentence(template, mentions, claim, self.dice.pick(_LINKS[claim]))
        zone = _spoken_zone(self.scene.objects[index])
        if zone in _ZONES:
            template = self.dice.pick(_PLACED)
            return Sentence(template, (mention,), "zone", self.dice.pick(_ZONES[zone]), zone)
        return Sentence(self.dice.pick(_EXISTS), (mention,))

    def _relations_between(self, first: int, second: int, names: Sequence[str]) -> list[str]:
        """Returns those of some relations that hold from one object to another."""
        a, b = self.scene.objects[first], self.scene.objects[second]
        return [name for name in names if RELATIONS[name](a, b)]

    def _extra(self) -> Sentence:
        """Returns one more sentence about known objects: a relation, what an object is like, or a number."""
        kind = self.dice.pick(("relation", "relation", "is", "count"))
        sentence = None
        if kind == "is":
            sentence = self._identity()
        elif kind == "count":
            sentence = self._count()
        return sentence or self._relation(tuple(RELATIONS))

    def _relation(self, names: Sequence[str]) -> Sentence:
        """Returns a sentence that relates two objects.

        Some relation always holds, because objects that do not overlap lie plainly beside or above each other.
        """
        while True:
            first, second = self.dice.shuffled(range(len(self.scene.objects)))[:2]
            relations = self._relations_between(first, second, names)
            if relations:
                claim = self.dice.pick(relations)
                mentions = (self._refer(first), self._refer(second))
                # "Larger than the star is the ring" is no English.
                template = _RELATED_KNOWN[0]
                if claim in PLACES:
                    template = self.dice.pick(_RELATED_KNOWN)
                return Sentence(template, mentions, claim, self.dice.pick(_LINKS[claim]))

    def _identity(self) -> Sentence | None:
        """Returns "The star is large and red" or "The striped shape is a star".

        Returns `None` if the reference to the object names all its attributes already.
        """
        index = self.dice.integer(0, len(self.scene.objects) - 1)
        subject = self._refer(index)
        silent = _unspoken(self.scene.objects[index]).union(subject.attributes)
        unsaid = [name for name in self.level.attributes if name not in silent]
        told = self.dice.shuffled(unsaid)[:2]
        if not told:
            return None
        attributes = tuple(name for name in ATTRIBUTES if name in told)
        article = "a" if "shape" in told else ""
        predicate = Mention(index, attributes, article, self.synonym)
        return Sentence("{0} is {1}.", (subject, predicate), "is")

    def _count(self) -> Sentence | None:
        """Returns "There are two red shapes", or `None` if no two objects share an attribute that is worth words."""
        objects = self.scene.objects
        for name in self.dice.shuffled(self.level.attributes):
            value = getattr(self.dice.pick(objects), name)
            sharing = [thing.depth for thing in objects if getattr(thing, name) == value]
            if len(sharing) > 1 and value != "solid":
                counted = Mention(sharing[0], (name,), "", self.synonym, len(sharing))
                return Sentence(self.dice.pick(_COUNTED), (counted,))
        return None

    def _insert(self, sentences: Sequence[Sentence], extra: Sentence) -> list[Sentence]:
        """Inserts a sentence somewhere behind the introductions of its objects. A repetition is dropped."""
        for sentence in sentences:
            if sentence.claim == extra.claim and sentence.mentions == extra.mentions:
                return list(sentences)
        targets = {mention.target for mention in extra.mentions}
        first_place = 0
        for position, sentence in enumerate(sentences):
            mention = sentence.mentions[0]
            # Of all sentences, only an introduction begins with an indefinite noun phrase.
            if mention.article == "a" and mention.target in targets:
                first_place = position + 1
        place = self.dice.integer(first_place, len(sentences))
        return [*sentences[:place], extra, *sentences[place:]]

    def _with_background(self, sentences: list[Sentence]) -> list[Sentence]:
        """Adds a sentence about the background, at the beginning or at the end."""
        scene = self.scene
        if self.dice.chance(0.25):
            closing = _CLOSINGS[scene.pattern].format(scene.background)
            return [*sentences, Sentence(f"the background {closing}.")]
        template = self.dice.pick(_OPENINGS)
        opening = template.format(
            count=NUMBERS[len(scene.objects)],
            shapes=self.dice.pick(("shapes", "objects")),
            background=_BACKGROUNDS[scene.pattern].format(scene.background),
        )
        return [Sentence(opening), *sentences]


def _unspoken(thing: SceneObject) -> set[str]:
    """Returns the attributes that need no words: that an object is solid."""
    return {"texture"} if thing.texture == "solid" else set()


def _spoken_zone(thing: SceneObject) -> tuple[str, str]:
    """Returns the zone as a speaker names it: "at the top" and "on the left" leave out the middle of the other axis."""
    column, row = zone_of(thing)
    if column == "middle" and row == "middle":
        return column, row
    return column.replace("middle", ""), row.replace("middle", "")
