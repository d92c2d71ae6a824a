"""A part-of-speech tagger for English captions: lists of words, endings and neighbours.

It needs no data, and its time is linear in the length of the text. A word first gets the class that it has without its
neighbours (`word_classes.py`). Where that class leaves several tags open, a rule looks at the neighbours
(`tagging_rules.py`).
"""

from collections.abc import Sequence

from .reading import Reading
from .tagging_rules import RULES_OF_CLASSES, RULES_OF_WORDS


def tag_by_rules(tokens: Sequence[str]) -> str:
    """Returns the tags of English tokens, one letter for each token (`taggers.py` has the letters).

    >>> tag_by_rules("A dog runs through the tall grass .".split())
    'DNVPDAN.'
    """
    words = [token.lower() for token in tokens]
    reading = Reading(words)
    for word, word_class in zip(words, reading.classes, strict=False):
        rule = RULES_OF_CLASSES.get(word_class) or RULES_OF_WORDS.get(word)
        tag = rule(reading) if rule is not None else word_class
        reading.append(tag)
    return reading.finish()
