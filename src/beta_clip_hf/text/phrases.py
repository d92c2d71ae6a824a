"""Phrases of a caption: noun phrases, verb + preposition, relations in space."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .taggers import TOKEN, Tagger, get_tagger, mark_relations


KINDS = ("noun", "verb", "relation")

# One letter per token, see taggers.py. Every repetition is bounded, so a match costs constant time wherever it starts.
_DETERMINERS = r"(?:D{1,3}(?:R(?=[AN]))?|R(?=A))?"
_MODIFIERS = r"(?:N(?=[AN])|A(?:,C?(?=A)|C(?=A)|(?=[AN]))){0,8}"
_SIMPLE = rf"{_DETERMINERS}{_MODIFIERS}N(?:G[AN]{{0,4}}N)?"
_NOUN_PHRASE = re.compile(rf"{_SIMPLE}(?:F{_SIMPLE}){{0,2}}")
_VERB_PHRASE = re.compile(r"VR?(?:P{0,2}Ll{0,5}|P{1,3})")
_RELATION = re.compile(r"Ll{0,5}")

# The medium, not what it shows.
_MEDIUM = frozenset({"image", "photo", "photograph", "picture"})


class Phrase(NamedTuple):
    """A phrase of a caption and its kind: "noun", "verb" or "relation"."""

    text: str
    kind: str


class PhraseExtractor:
    """Extracts the phrases of an English caption, in order of appearance and without duplicates.

    - `noun`: a noun phrase with its determiner, adjectives and "of" part: "a group of small children".
    - `verb`: a verb with the preposition that follows it: "standing on", "climbing up".
    - `relation`: two noun phrases and what relates them in space, "a red cube next to a blue sphere"; without a noun
      phrase right before it, the relation and what follows: "to the left of the door".

    Each phrase is a stretch of the text, white space collapsed. The rules are English; words of a script other than
    Latin are part of no phrase, so that captions in other languages may have none.

    Args:
        tagger: "rules" (built in, no data), "nltk", "textblob", or a function from tokens to tags (see `taggers`).
        kinds: the kinds of phrases to return.

    Raises:
        ValueError: a kind or the tagger is unknown.
        ImportError: the tagger's package is not installed.

    >>> PhraseExtractor()("A black dog is standing on a chair next to a red ball.")
    ['A black dog', 'standing on', 'a chair', 'a chair next to a red ball', 'a red ball']
    """

    def __init__(self, tagger: str | Tagger = "rules", *, kinds: Sequence[str] = KINDS) -> None:
        unknown = set(kinds) - set(KINDS)
        if isinstance(kinds, str) or unknown:
            raise ValueError(f"kinds must be among {KINDS}, but is {kinds!r}")
        self.tagger = tagger
        self.kinds = tuple(kinds)
        get_tagger(tagger)  # a wrong name or a missing package shows here

    def __call__(self, text: str) -> list[str]:
        """The texts of the phrases; an empty text has none."""
        return [phrase.text for phrase in self.extract(text)]

    def extract(self, text: str) -> list[Phrase]:
        """The phrases with their kinds. Time is linear in the length of the text.

        Raises:
            ValueError: `text` is not a string.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a string, but is {text!r}")
        tokens = list(TOKEN.finditer(text))
        words = [token[0].lower() for token in tokens]
        tags = mark_relations(words, get_tagger(self.tagger)([token[0] for token in tokens])) if tokens else ""
        phrases: dict[str, Phrase] = {}
        for start, end, kind in sorted(_spans(words, tags)):
            if kind in self.kinds:
                phrase = " ".join(text[tokens[start].start() : tokens[end - 1].end()].split())
                phrases.setdefault(phrase.casefold(), Phrase(phrase, kind))
        return list(phrases.values())


def _spans(words: Sequence[str], tags: str) -> Iterator[tuple[int, int, str]]:
    """Token spans of the phrases with their kinds: (first, one past the last, kind)."""
    nouns = [match.span() for match in _NOUN_PHRASE.finditer(tags) if words[match.end() - 1] not in _MEDIUM]
    end_of = dict(nouns)
    start_of = {end: start for start, end in nouns}
    verbs = [match.span() for match in _VERB_PHRASE.finditer(tags)]
    in_verb = {end for _, end in verbs}
    yield from ((start, end, "noun") for start, end in nouns)
    yield from ((start, end, "verb") for start, end in verbs)
    for match in _RELATION.finditer(tags):
        start, end = match.span()
        if end in in_verb or end not in end_of:
            continue
        right = end_of[end]
        if words[start] == "between" and tags[right : right + 1] == "C":
            right = end_of.get(right + 1, right)
        yield start_of.get(start, start), right, "relation"
