"""Plans what a caption says about a scene: which sentences, in which words and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import ATTRIBUTES, PLACES, RELATIONS, Dice, Level, Scene, SceneObject, zone_of
from .text import NUMBERS, CaptionPlan, Mention, Sentence


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

_OPENINGS = (
    "the picture shows {count} {shapes} on {background}.",
    "there are {count} {shapes} on {background}.",
    "{count} {shapes} are drawn on {background}.",
    "this is a picture of {count} {shapes} on {background}.",
    "we see {count} {shapes} on {background}.",
)
_BACKGROUNDS = {"plain": "a {} background", "fading": "a fading {} background", "grid": "a {} background with a grid"}
_CLOSINGS = {"plain": "is {}", "fading": "is {} and fading", "grid": "is {} and has a grid"}

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
_RELATED_KNOWN = ("{0} is {link} {1}.", "{link} {1} is {0}.", "{0} can be seen {link} {1}.")
_EXISTS = ("there is {0}.", "the picture contains {0}.", "we also see {0}.", "{0} can be seen.")
_COUNTED = ("there are {0}.", "the picture contains {0}.", "{0} can be seen.")

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
    """Introduces the objects one by one, in any order, each by its place in the picture or by its relation to one that
    was introduced before; strews in more claims about them; and opens or closes with the background."""
    return CaptionPlan(scene, tuple(Speaker(dice, scene, level).caption()))


def short_caption(dice: Dice, scene: Scene, level: Level) -> str:
    """One sentence that names up to three of the objects, the rest as a number, and sometimes the background."""
    speaker = Speaker(dice, scene, level)
    order = dice.shuffled(range(len(scene.objects)))
    nouns = [speaker.introduce(index, size=0.0).text(scene.objects[index]) for index in order[:3]]
    if others := len(order) - len(nouns):
        nouns.append(f"{NUMBERS[others]} other shape{'s' if others > 1 else ''}")
    text = f"{', '.join(nouns[:-1])} and {nouns[-1]}"
    text += f" on {_BACKGROUNDS[scene.pattern].format(scene.background)}." if dice.chance(0.5) else "."
    return text[0].upper() + text[1:]


class Speaker:
    """Talks about one scene, with one choice among synonyms."""

    def __init__(self, dice: Dice, scene: Scene, level: Level) -> None:
        self.dice = dice
        self.scene = scene
        self.level = level
        self.synonym = dice.integer(0, 2 ** len(ATTRIBUTES) - 1)

    def introduce(self, index: int, *, size: float = 0.5) -> Mention:
        """A noun phrase that fits this object alone: colour and shape, the texture where it says something, the size
        with probability `size`; everything where that is not enough."""
        thing, chance = self.scene.objects[index], self.dice.chance
        named = {"colour", "shape"}
        named |= {"texture"} if thing.texture != "solid" or chance(0.25) else set()
        named |= {"size"} if chance(size) else set()
        attributes = tuple(name for name in self.level.attributes if name in named)
        return Mention(index, attributes if self._fits_one(thing, attributes) else ATTRIBUTES, "a", self.synonym)

    def caption(self) -> list[Sentence]:
        dice = self.dice
        known: list[int] = []
        sentences: list[Sentence] = []
        for index in dice.shuffled(range(len(self.scene.objects))):
            sentences.append(self._introduction(index, known))
            known.append(index)
        wanted = dice.integer(*self.level.extra_sentences)
        if not any(sentence.claim in PLACES for sentence in sentences):
            sentences = self._strewn(sentences, self._relation(PLACES))
            wanted -= 1
        for _ in range(max(wanted, 0)):
            sentences = self._strewn(sentences, self._extra())
        return self._with_background(sentences)

    def _fits_one(self, thing: SceneObject, attributes: Sequence[str]) -> bool:
        return sum(other.matches(thing, attributes) for other in self.scene.objects) == 1

    def _introduction(self, index: int, known: Sequence[int]) -> Sentence:
        mention = self.introduce(index)
        if known and self.dice.chance(0.55):
            other = self.dice.pick(known)
            if held := self._holding(index, other, PLACES):
                claim = self.dice.pick(held)
                mentions = (mention, self._refer(other))
                return Sentence(self.dice.pick(_RELATED), mentions, claim, self.dice.pick(_LINKS[claim]))
        zone = _spoken_zone(self.scene.objects[index])
        if zone in _ZONES:
            return Sentence(self.dice.pick(_PLACED), (mention,), "zone", self.dice.pick(_ZONES[zone]), zone)
        return Sentence(self.dice.pick(_EXISTS), (mention,))

    def _refer(self, index: int) -> Mention:
        """A definite noun phrase, often shorter than the introduction, that still fits this object alone."""
        thing = self.scene.objects[index]
        for attributes in self.dice.shuffled(_REFERENCES):
            worth_words = set(attributes) <= set(self.level.attributes) - self._plain(thing)
            if worth_words and self._fits_one(thing, attributes):
                return Mention(index, attributes, "the", self.synonym)
        return Mention(index, ATTRIBUTES, "the", self.synonym)

    def _plain(self, thing: SceneObject) -> set[str]:
        """The attributes that go without saying: that an object is solid."""
        return {"texture"} if thing.texture == "solid" else set()

    def _holding(self, first: int, second: int, names: Sequence[str]) -> list[str]:
        a, b = self.scene.objects[first], self.scene.objects[second]
        return [name for name in names if RELATIONS[name](a, b)]

    def _extra(self) -> Sentence:
        kind = self.dice.pick(("relation", "relation", "is", "count"))
        sentence = self._count() if kind == "count" else self._identity() if kind == "is" else None
        return sentence or self._relation(tuple(RELATIONS))

    def _relation(self, names: Sequence[str]) -> Sentence:
        """Two objects in any relation that holds. One always does: objects that do not overlap lie plainly beside or
        above each other."""
        while True:
            first, second = self.dice.shuffled(range(len(self.scene.objects)))[:2]
            if held := self._holding(first, second, names):
                claim = self.dice.pick(held)
                mentions = (self._refer(first), self._refer(second))
                template = self.dice.pick(_RELATED_KNOWN) if claim in PLACES else _RELATED_KNOWN[0]
                return Sentence(template, mentions, claim, self.dice.pick(_LINKS[claim]))

    def _identity(self) -> Sentence | None:
        """ "The star is large and red", "The striped shape is a star"; None where the reference says it all."""
        subject = self._refer(self.dice.integer(0, len(self.scene.objects) - 1))
        silent = {*subject.attributes, *self._plain(self.scene.objects[subject.target])}
        unsaid = [name for name in self.level.attributes if name not in silent]
        told = self.dice.shuffled(unsaid)[:2]
        if not told:
            return None
        attributes = tuple(name for name in ATTRIBUTES if name in told)
        predicate = Mention(subject.target, attributes, "a" if "shape" in told else "", self.synonym)
        return Sentence("{0} is {1}.", (subject, predicate), "is")

    def _count(self) -> Sentence | None:
        """ "There are two red shapes"; None where no two objects share an attribute worth the words."""
        objects = self.scene.objects
        for name in self.dice.shuffled(self.level.attributes):
            value = getattr(self.dice.pick(objects), name)
            same = [thing.depth for thing in objects if getattr(thing, name) == value]
            if len(same) > 1 and value != "solid":
                counted = Mention(same[0], (name,), "", self.synonym, len(same))
                return Sentence(self.dice.pick(_COUNTED), (counted,))
        return None

    def _strewn(self, sentences: Sequence[Sentence], extra: Sentence) -> list[Sentence]:
        """`extra` at a random place after the introductions of the objects in it; a repetition is dropped."""
        if any((extra.claim, extra.mentions) == (other.claim, other.mentions) for other in sentences):
            return list(sentences)
        needed = {mention.target for mention in extra.mentions}
        introductions = [
            position
            for position, sentence in enumerate(sentences)
            if sentence.mentions[0].article == "a" and sentence.mentions[0].target in needed
        ]
        at = self.dice.integer(introductions[-1] + 1, len(sentences))
        return [*sentences[:at], extra, *sentences[at:]]

    def _with_background(self, sentences: list[Sentence]) -> list[Sentence]:
        scene = self.scene
        if self.dice.chance(0.25):
            return [*sentences, Sentence(f"the background {_CLOSINGS[scene.pattern].format(scene.background)}.")]
        opening = self.dice.pick(_OPENINGS).format(
            count=NUMBERS[len(scene.objects)],
            shapes=self.dice.pick(("shapes", "objects")),
            background=_BACKGROUNDS[scene.pattern].format(scene.background),
        )
        return [Sentence(opening), *sentences]


def _spoken_zone(thing: SceneObject) -> tuple[str, str]:
    """The zone as one says it: "at the top" and "on the left" stay silent about the middle of the other axis."""
    column, row = zone_of(thing)
    if column == row == "middle":
        return column, row
    return column.replace("middle", ""), row.replace("middle", "")
