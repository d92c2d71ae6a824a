"""Reads the English of the generated scenes and says whether a sentence can be true of a scene.

It knows the words alone and nothing of the generator. `could_be_true` gives every benefit of the doubt: any object that
fits a noun phrase may be meant, and any relation that is not plainly wrong may hold.
"""

import itertools
import re
from itertools import chain

from beta_clip_hf.data.scenes.layout import Scene, SceneObject


VALUES = {
    "size": {"small": "small", "little": "small", "large": "large", "big": "large"},
    "texture": {name: name for name in ("solid", "striped", "dotted", "checkered", "shaded")}
    | {"plain": "solid", "spotted": "dotted"},
    "colour": {name: name for name in ("red", "green", "blue", "yellow", "pink", "cyan", "orange", "purple", "brown")},
    "shape": {
        name: name
        for name in (
            *("circle", "square", "triangle", "cross", "star", "heart"),
            *("diamond", "crescent", "arrow", "ring", "frame"),
        )
    }
    | {"disc": "circle"},
}
VALUES["shape"] |= {f"{word}{'es' if word == 'cross' else 's'}": name for word, name in VALUES["shape"].items()}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}

_ADJECTIVE = "|".join(chain.from_iterable(VALUES[name] for name in ("size", "texture", "colour")))
_NOUN = "|".join([*VALUES["shape"], "shape", "object"])
NOUN_PHRASE = re.compile(rf"\b(?:(a|an|the|{'|'.join(NUMBERS)}) )?((?:(?:{_ADJECTIVE}) )*)({_NOUN})s?\b")

RELATIONS = {
    r"left of": lambda a, b: a.x < b.x,
    r"right of": lambda a, b: a.x > b.x,
    r"above|higher than": lambda a, b: a.y < b.y,
    r"below|under|lower than": lambda a, b: a.y > b.y,
    r"inside|within": lambda a, b: _inside(a, b),
    r"around": lambda a, b: _inside(b, a),
    r"in front of|partly covering": lambda a, b: _overlap(a, b) and a.depth > b.depth,
    r"behind|partly covered by": lambda a, b: _overlap(a, b) and a.depth < b.depth,
    r"larger than|bigger than": lambda a, b: a.diameter > b.diameter,
    r"smaller than": lambda a, b: a.diameter < b.diameter,
}
ZONES = {
    r"(left corner|\w+ left$|on the left)": lambda thing: thing.x < 32,
    r"(right corner|\w+ right$|on the right)": lambda thing: thing.x > 32,
    r"\b(top|upper)\b": lambda thing: thing.y < 32,
    r"\b(bottom|lower)\b": lambda thing: thing.y > 32,
    r"\b(middle|center)\b": lambda thing: abs(thing.x - 32) < 12 and abs(thing.y - 32) < 12,
}


def description(text: str) -> dict[str, str]:
    """Attribute -> value for every attribute word of a text.

    >>> description("big red disc")
    {'size': 'large', 'colour': 'red', 'shape': 'circle'}
    """
    words = re.findall(r"\w+", text.lower())
    described = {}
    for name, values in VALUES.items():
        for word in words:
            if word in values:
                described[name] = values[word]
    return described


def fits(thing: SceneObject, described: dict[str, str]) -> bool:
    """Tells whether an object has all the described values."""
    return all(getattr(thing, name) == value for name, value in described.items())


def could_be_true(sentence: str, scene: Scene) -> bool:
    """Tells whether a scene lets a sentence be true."""
    text = sentence.lower().rstrip(".")
    if "background" in text:
        return _opening_holds(text, scene)
    phrases = list(NOUN_PHRASE.finditer(text))
    meant = []
    for match in phrases:
        described = description(match.group())
        meant.append([thing for thing in scene.objects if fits(thing, described)])
    if phrases[0].group(1) in NUMBERS:
        return len(meant[0]) == NUMBERS[phrases[0].group(1)]
    if len(phrases) == 2:
        return _pair_holds(text, phrases, meant)
    before, after = text[: phrases[0].start()], text[phrases[0].end() :]
    predicate = re.fullmatch(rf" is ((?:{_ADJECTIVE})(?: and (?:{_ADJECTIVE}))?)", after)
    if predicate:
        return any(fits(thing, description(predicate.group(1))) for thing in meant[0])
    place = before.replace("there is", "").replace("we see", "").strip() or after
    return any(_is_at(thing, place) for thing in meant[0])


def _is_at(thing: SceneObject, place: str) -> bool:
    return all(holds(thing) for zone, holds in ZONES.items() if re.search(zone, place))


def _opening_holds(text: str, scene: Scene) -> bool:
    counted = re.search(rf"({'|'.join(NUMBERS)}) (?:shapes|objects)", text)
    colour = re.search("white|gray|black", text)
    assert colour, text
    pattern = "fading" if "fading" in text else "grid" if "grid" in text else "plain"
    count = NUMBERS[counted.group(1)] if counted else len(scene.objects)
    return (count, colour.group(), pattern) == (len(scene.objects), scene.background, scene.pattern)


def _pair_holds(text: str, phrases: list[re.Match[str]], meant: list[list[SceneObject]]) -> bool:
    found = [(match.start(), holds) for words, holds in RELATIONS.items() if (match := re.search(words, text))]
    if not found:  # "the star is a red shape"
        return any(thing in meant[1] for thing in meant[0])
    ((start, holds),) = found
    subjects, objects = reversed(meant) if start < phrases[0].start() else meant
    return any(a is not b and holds(a, b) for a, b in itertools.product(subjects, objects))


def _inside(a: SceneObject, b: SceneObject) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) + a.diameter / 2 < b.diameter / 2


def _overlap(a: SceneObject, b: SceneObject) -> bool:
    reach = (a.diameter + b.diameter) / 2
    return abs(a.x - b.x) < reach and abs(a.y - b.y) < reach and not {a.shape, b.shape} & {"ring", "frame"}
