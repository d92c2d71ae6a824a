"""The texts of one image: a caption, its sentences, their phrases (method of β-CLIP, arXiv 2512.12678, section 3)."""

import random
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from .phrases import PhraseExtractor
from .sampling import choose_in_turns, join_captions, join_sentences
from .sentences import split_sentences


# The columns of a row whose hierarchy was built before.
HIERARCHY_COLUMNS = ("sentences", "phrases", "phrase_sentences", "phrase_kinds")
SENTENCE_ORDERS = ("reading", "random")
# Kind of a phrase that the data brought along without a kind.
GIVEN = "given"

# Thai, Lao, Khmer, Japanese and Chinese put no space between words: there each character counts as a word.
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


@dataclass(frozen=True)
class TextHierarchy:
    """One image's caption, its sentences and their phrases: plain data, equal when all texts are equal.

    Attributes:
        caption: Whole text.
        sentences: Sentences in the caption's order. Without sentences the caption stands alone, as for CLIP.
        phrases: Phrases in order of appearance.
        phrase_sentences: For each phrase the index of its sentence. By default it is the first that contains the
            phrase, or else the first of all.
        phrase_kinds: For each phrase "noun", "verb", "relation", or a kind of the data's own; "given" by default.
        short_caption: An alternative, short text of the whole image.

    Raises:
        ValueError: if a text is blank, lengths differ, or a phrase's sentence does not exist.
    """

    caption: str
    sentences: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    phrase_sentences: tuple[int, ...] = ()
    phrase_kinds: tuple[str, ...] = ()
    short_caption: str | None = None

    def __post_init__(self) -> None:
        for name in HIERARCHY_COLUMNS:
            self._set(name, tuple(getattr(self, name)))
        self._check_texts()
        if self.phrases and not self.phrase_sentences:
            self._set("phrase_sentences", tuple(_sentences_of_phrases(self.phrases, self.sentences)))
        if self.phrases and not self.phrase_kinds:
            self._set("phrase_kinds", (GIVEN,) * len(self.phrases))
        self._check_phrases()

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as strings, lists and None: what JSON and Arrow hold."""
        return {"caption": self.caption, **self.columns(), "short_caption": self.short_caption}

    def columns(self) -> dict[str, list[Any]]:
        """Returns the columns of a row whose hierarchy was built before (`HIERARCHY_COLUMNS`), as lists."""
        return {name: list(getattr(self, name)) for name in HIERARCHY_COLUMNS}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TextHierarchy":
        """Makes a hierarchy of what `to_dict` has returned."""
        return cls(**fields)

    def sample(
        self,
        rng: random.Random,
        *,
        num_sentences: int = 5,
        num_phrases: int = 30,
        separator: str = ". ",
        order: str = "reading",
    ) -> "TextHierarchy":
        """Draws a part of the hierarchy, as one training step sees it.

        Up to `num_sentences` sentences are drawn without replacement; joined, they are the caption. Their order is that
        of the caption ("reading"), or the one in which they were drawn ("random"), which changes nothing else.
        Their phrases are those attached to them, and those that stand in them word for word. If there are more than
        `num_phrases`, kinds take turns, each in random order, so that no kind crowds out another. What is left keeps
        its order. Equal states of `rng` give equal samples. A caption that stands alone is its own sample.

        Raises:
            ValueError: if `num_sentences` is below 1 or `num_phrases` below 0, or the order is unknown.
        """
        if num_sentences < 1:
            raise ValueError(f"num_sentences must be at least 1, but is {num_sentences}")
        if num_phrases < 0:
            raise ValueError(f"num_phrases must be at least 0, but is {num_phrases}")
        if order not in SENTENCE_ORDERS:
            raise ValueError(f"order must be one of {SENTENCE_ORDERS}, but is {order!r}")
        if not self.sentences:
            return self
        count = min(num_sentences, len(self.sentences))
        drawn = rng.sample(range(len(self.sentences)), count)
        if order == "reading":
            drawn.sort()
        sentence_of_phrase = self._phrases_in(drawn)
        kinds = [self.phrase_kinds[index] for index in sentence_of_phrase]
        kept = choose_in_turns(list(sentence_of_phrase), kinds, num_phrases, rng)
        caption = join_sentences([self.sentences[index] for index in drawn], separator)
        return self._part(caption, drawn, {index: sentence_of_phrase[index] for index in kept})

    def without_first_sentence(self) -> "TextHierarchy":
        """Returns the hierarchy without its first sentence, often a summary; itself if it has no other sentence.

        The caption is what follows the sentence; if it does not begin with it, the other sentences. Phrases of the
        sentence go with it, unless they stand word for word in another one.

        >>> hierarchy = TextHierarchy("A dog. It lies. It sleeps.", ("A dog.", "It lies.", "It sleeps."), ("A dog",))
        >>> hierarchy.without_first_sentence().caption, hierarchy.without_first_sentence().phrases
        ('It lies. It sleeps.', ())
        """
        if len(self.sentences) < 2:
            return self
        first, *others = self.sentences
        caption = self.caption.strip()
        rest = caption.removeprefix(first).strip()
        if rest == caption or not rest:
            rest = join_captions(others)
        kept = range(1, len(self.sentences))
        return self._part(rest, kept, self._phrases_in(kept))

    def _part(self, caption: str, drawn: Sequence[int], sentence_of_phrase: Mapping[int, int]) -> "TextHierarchy":
        """Returns a hierarchy of some of the texts.

        Args:
            caption: The caption of the part.
            drawn: The sentences, by index.
            sentence_of_phrase: The phrases, by index, and the place of the sentence of each in `drawn`.
        """
        return with_checked_texts(
            self,
            caption=caption,
            sentences=tuple(self.sentences[index] for index in drawn),
            phrases=tuple(self.phrases[index] for index in sentence_of_phrase),
            phrase_sentences=tuple(sentence_of_phrase.values()),
            phrase_kinds=tuple(self.phrase_kinds[index] for index in sentence_of_phrase),
        )

    def _phrases_in(self, drawn: Sequence[int]) -> dict[int, int]:
        """Maps the index of each phrase of the drawn sentences to the place in `drawn` of its sentence."""
        place_of_sentence = {sentence: place for place, sentence in enumerate(drawn)}
        folded_sentences = [_fold(self.sentences[sentence]) for sentence in drawn]
        places = {}
        for index, (phrase, sentence) in enumerate(zip(self.phrases, self.phrase_sentences, strict=True)):
            place = place_of_sentence.get(sentence)
            # A phrase of two sentences is listed with the first, which may not be among the drawn ones.
            if place is None:
                place = _first_sentence_with(phrase, folded_sentences)
            if place is not None:
                places[index] = place
        return places

    def _set(self, name: str, value: Any) -> None:
        # A frozen dataclass can be completed only this way.
        object.__setattr__(self, name, value)

    def _check_texts(self) -> None:
        _check_text("caption", self.caption)
        if self.short_caption is not None:
            _check_text("short_caption", self.short_caption)
        for index, sentence in enumerate(self.sentences):
            _check_text(f"sentences[{index}]", sentence)
        for index, phrase in enumerate(self.phrases):
            _check_text(f"phrases[{index}]", phrase)

    def _check_phrases(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("phrases", "phrase_sentences", "phrase_kinds")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"phrases, phrase_sentences and phrase_kinds must be of one length, but are {lengths}")
        _check_sentence_indices(self.phrase_sentences, len(self.sentences))


def with_checked_texts(hierarchy: TextHierarchy, **fields: Any) -> TextHierarchy:
    """Returns a hierarchy with other fields, which are known to be right and are not checked again.

    It is for texts that have been checked on their way here: parts of a hierarchy, or its cleaned texts. All others go
    through `TextHierarchy(…)` or `dataclasses.replace`, which check every text.

    Args:
        hierarchy: The hierarchy that has the other fields. It stays as it is.
        fields: The new fields by name: texts that are not blank, and tuples of lengths that fit.
    """
    changed = copy(hierarchy)
    for name, value in fields.items():
        # A frozen dataclass can be changed only this way.
        object.__setattr__(changed, name, value)
    return changed


def build_text_hierarchy(
    caption: str | Sequence[str],
    *,
    sentences: Sequence[str] | None = None,
    phrases: Sequence[str | Mapping[str, Any]] | None = None,
    short_caption: str | None = None,
    extractor: PhraseExtractor | None = None,
) -> TextHierarchy:
    """Builds the hierarchy of one image's text.

    Args:
        caption: One text, or several captions of one image: each is a sentence, joined they are the caption.
        sentences: The caption's sentences, if they are known better than `split_sentences` finds them. An empty list
            counts as not known.
        phrases: The phrases, if they need not be extracted: strings, or mappings with "text" and, if known, "sentence"
            (an index) and "kind". They are kept as they are, repeated ones too. A phrase without an index belongs to
            the first sentence that contains it, or else to the first of all. An empty list means no phrases.
        short_caption: A short text of the whole image. A blank one counts as none.
        extractor: Extracts the phrases; `PhraseExtractor()` by default. A phrase that occurs in several sentences is
            listed once, with the first.

    Raises:
        ValueError: if the caption or a phrase is blank, or not a string.

    >>> build_text_hierarchy("A red cube is next to a ball. It shines.").phrases
    ('A red cube', 'next to a ball', 'a ball')
    """
    captions = _captions(caption)
    whole = join_captions(captions)
    # The constructor checks the caption. The other texts are checked where they are read, and not a second time.
    bare = TextHierarchy(whole)
    if sentences:
        kept_sentences = _without_blank(sentences, "sentences")
    elif isinstance(caption, str):
        kept_sentences = split_sentences(caption)
    else:
        kept_sentences = captions
    # A caption of which no sentence is left, such as "!!!", is its own sentence.
    kept_sentences = kept_sentences or [whole]
    if phrases is None:
        placed = _extract(kept_sentences, extractor or PhraseExtractor())
    else:
        placed = _place(phrases, kept_sentences)
    short = "" if short_caption is None else _check_type("short_caption", short_caption).strip()
    sentence_of_phrase = tuple(phrase.sentence for phrase in placed)
    _check_sentence_indices(sentence_of_phrase, len(kept_sentences))
    return with_checked_texts(
        bare,
        sentences=tuple(kept_sentences),
        phrases=tuple(phrase.text for phrase in placed),
        phrase_sentences=sentence_of_phrase,
        phrase_kinds=tuple(phrase.kind for phrase in placed),
        short_caption=short or None,
    )


class _PlacedPhrase(NamedTuple):
    """A phrase with the index of its sentence."""

    text: str
    sentence: int
    kind: str


def _captions(caption: Any) -> list[str]:
    """Returns the captions of an image without outer white space; blank ones are left out.

    Raises:
        ValueError: if they are not strings.
    """
    if isinstance(caption, str):
        return [caption.strip()]
    if not isinstance(caption, Sequence):
        raise ValueError(f"caption must be a string or a list of strings, but is {caption!r}")
    return _without_blank(caption, "caption")


def _without_blank(texts: Sequence[Any], name: str) -> list[str]:
    """Strips texts of outer white space, and leaves out the blank ones."""
    stripped = [_check_type(f"{name}[{index}]", text).strip() for index, text in enumerate(texts)]
    return [text for text in stripped if text]


def _extract(sentences: Sequence[str], extractor: PhraseExtractor) -> list[_PlacedPhrase]:
    first_of_text: dict[str, _PlacedPhrase] = {}
    for index, sentence in enumerate(sentences):
        for phrase in extractor.extract(sentence):
            folded = phrase.text.casefold()
            if folded not in first_of_text:
                text = _check_text(f"phrases[{len(first_of_text)}]", phrase.text)
                first_of_text[folded] = _PlacedPhrase(text, index, phrase.kind)
    return list(first_of_text.values())


def _place(phrases: Sequence[str | Mapping[str, Any]], sentences: Sequence[str]) -> list[_PlacedPhrase]:
    """Finds the sentence of each phrase that the data brought along."""
    folded_sentences = [_fold(sentence) for sentence in sentences]
    placed = []
    for index, phrase in enumerate(phrases):
        fields: Mapping[str, Any] = {"text": phrase} if isinstance(phrase, str) else phrase
        text = _check_text(f"phrases[{index}]", fields.get("text"))
        sentence = fields.get("sentence")
        if sentence is None:
            sentence = _first_sentence_with(text, folded_sentences) or 0
        placed.append(_PlacedPhrase(text, int(sentence), fields.get("kind") or GIVEN))
    return placed


def _sentences_of_phrases(phrases: Sequence[str], sentences: Sequence[str]) -> list[int]:
    folded_sentences = [_fold(sentence) for sentence in sentences]
    return [_first_sentence_with(phrase, folded_sentences) or 0 for phrase in phrases]


def _first_sentence_with(phrase: str, folded_sentences: Sequence[str]) -> int | None:
    """Returns the index of the first sentence that contains a phrase word for word, or `None`."""
    folded_phrase = _fold(phrase)
    # A phrase without a word would be in every sentence.
    if folded_phrase.isspace():
        return None
    for index, sentence in enumerate(folded_sentences):
        if folded_phrase in sentence:
            return index
    return None


def _fold(text: str) -> str:
    """Reduces a text to its words between spaces, so that `in` compares whole words."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _check_sentence_indices(sentence_of_phrase: Sequence[int], num_sentences: int) -> None:
    for index in sentence_of_phrase:
        if not 0 <= index < num_sentences:
            raise ValueError(f"phrase_sentences must be in [0, {num_sentences}), but is {index}")


def _check_type(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string, but is {text!r}")
    return text


def _check_text(name: str, text: Any) -> str:
    if not _check_type(name, text).strip():
        raise ValueError(f"{name} must hold some text, but is {text!r}")
    return text
