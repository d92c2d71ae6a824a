"""Phrases of a caption: noun phrases, verbs with prepositions, and relations in space."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .taggers import TOKEN, Tagger, get_tagger, mark_relations


KINDS = ("noun", "verb", "relation")

# One letter stands for one token (`taggers.py` has the letters). Every repetition is bounded, so that a match takes
# constant time wherever it starts.
_DETERMINERS = r"(?:D{1,3}(?:R(?=[AN]))?|R(?=A))?"
_MODIFIERS = r"(?:N(?=[AN])|A(?:,C?(?=A)|C(?=A)|(?=[AN]))){0,8}"
_SIMPLE = rf"{_DETERMINERS}{_MODIFIERS}N(?:G[AN]{{0,4}}N)?"
_NOUN_PHRASE = re.compile(rf"{_SIMPLE}(?:F{_SIMPLE}){{0,2}}")
_VERB_PHRASE = re.compile(r"VR?(?:P{0,2}Ll{0,5}|P{1,3})")
_RELATION = re.compile(r"Ll{0,5}")

# These words name the medium. What the caption describes is in the picture, not the picture itself.
_MEDIUM = frozenset({"image", "photo", "photograph", "picture"})


class Phrase(NamedTuple):
    """A phrase of a caption and its kind: "noun", "verb" or "relation"."""

    text: str
    kind: str


class PhraseExtractor:
    """Extracts the phrases of an English caption, in order of appearance and without duplicates.

    - `noun`: a noun phrase with its determiner, adjectives and "of" part: "a group of small children".
    - `verb`: a verb with the preposition that follows it: "standing on", "climbing up".
    - `relation`: two noun phrases and their relation in space, "a red cube next to a blue sphere". Without a noun
      phrase right before it, the relation and the noun phrase behind it: "to the left of the door".

    Each phrase is a stretch of the text with white space collapsed. The rules are English. Words of a script other
    than Latin are part of no phrase, so captions in other languages may have none.

    Args:
        tagger: "rules" (built in, no data), "nltk", "textblob", or a function from tokens to tags (see `taggers`).
        kinds: The kinds of phrases to return.

    Raises:
        ValueError: If a kind or the tagger is unknown.
        ImportError: If the tagger's package is not installed.

    >>> PhraseExtractor()("A black dog is standing on a chair next to a red ball.")
    ['A black dog', 'standing on', 'a chair', 'a chair next to a red ball', 'a red ball']
    """

    def __init__(self, tagger: str | Tagger = "rules", *, kinds: Sequence[str] = KINDS) -> None:
        unknown = set(kinds) - set(KINDS)
        if isinstance(kinds, str) or unknown:
            raise ValueError(f"kinds must be among {KINDS}, but is {kinds!r}")
        # A wrong name or a missing package is reported here and not at the first caption. The function itself is looked
        # up for each caption, so that an extractor can be pickled whatever the tagger.
        get_tagger(tagger)
        self.tagger = tagger
        self.kinds = tuple(kinds)

    def __call__(self, text: str) -> list[str]:
        """Returns the texts of the phrases. An empty text has none."""
        return [phrase.text for phrase in self.extract(text)]

    def extract(self, text: str) -> list[Phrase]:
        """Returns the phrases with their kinds. The time is linear in the length of the text.

        Raises:
            ValueError: If `text` is not a string.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a string, but is {text!r}")
        tokens = list(TOKEN.finditer(text))
        if not tokens:
            return []
        tag = get_tagger(self.tagger)
        words = [token[0].lower() for token in tokens]
        tags = mark_relations(words, tag([token[0] for token in tokens]))
        phrases: dict[str, Phrase] = {}
        for start, end, kind in sorted(_spans(words, tags)):
            if kind in self.kinds:
                stretch = text[tokens[start].start() : tokens[end - 1].end()]
                phrase = " ".join(stretch.split())
                phrases.setdefault(phrase.casefold(), Phrase(phrase, kind))
        return list(phrases.values())


def _spans(words: Sequence[str], tags: str) -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, kind) of all phrases, kind by kind: their tokens run from `start` up to and without `end`."""
    noun_starts = {}
    noun_ends = {}
    for match in _NOUN_PHRASE.finditer(tags):
        start, end = match.span()
        if words[end - 1] not in _MEDIUM:
            noun_starts[end] = start
            noun_ends[start] = end
            yield start, end, "noun"
    verb_ends = set()
    for match in _VERB_PHRASE.finditer(tags):
        start, end = match.span()
        verb_ends.add(end)
        yield start, end, "verb"
    for match in _RELATION.finditer(tags):
        start, end = match.span()
        # The preposition of "standing on" belongs to the verb, and a relation needs a noun phrase behind it.
        if end in verb_ends or end not in noun_ends:
            continue
        right = noun_ends[end]
        # "Between a chair and a table" relates two things to the first one.
        if words[start] == "between" and tags[right : right + 1] == "C":
            right = noun_ends.get(right + 1, right)
        yield noun_starts.get(start, start), right, "relation"
