"""The texts of one image: a caption, its sentences, their phrases (method of β-CLIP, arXiv 2512.12678, section 3)."""

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .phrases import PhraseExtractor
from .sentences import split_sentences


if TYPE_CHECKING:
    import datasets

# A word; in scripts that put no space between words (Thai, Lao, Khmer, Japanese, Chinese) a character.
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
GIVEN = "given"  # kind of a phrase that the data brought along without a kind
# The columns of a row whose hierarchy was built before.
COLUMNS = ("sentences", "phrases", "phrase_sentences", "phrase_kinds")


@dataclass(frozen=True)
class TextHierarchy:
    """One image's caption, its sentences and their phrases: plain data, equal when all texts are equal.

    Attributes:
        caption: the whole text.
        sentences: in the caption's order, at least one.
        phrases: in order of appearance.
        phrase_sentences: for each phrase the index of its sentence; left out: the first that contains it, else 0.
        phrase_kinds: for each phrase "noun", "verb", "relation", or a kind of the data's own; left out: "given".
        short_caption: an alternative, short text of the whole image.

    Raises:
        ValueError: a text is blank, lengths differ, or a phrase's sentence does not exist.
    """

    caption: str
    sentences: tuple[str, ...]
    phrases: tuple[str, ...] = ()
    phrase_sentences: tuple[int, ...] = ()
    phrase_kinds: tuple[str, ...] = ()
    short_caption: str | None = None

    def __post_init__(self) -> None:
        for name in ("sentences", "phrases", "phrase_sentences", "phrase_kinds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_text("caption", self.caption)
        if not self.sentences:
            raise ValueError("sentences must hold at least one sentence, but is empty")
        for name in ("sentences", "phrases"):
            for index, text in enumerate(getattr(self, name)):
                _check_text(f"{name}[{index}]", text)
        if self.short_caption is not None:
            _check_text("short_caption", self.short_caption)
        if self.phrases and not self.phrase_sentences:
            folded = [_fold(sentence) for sentence in self.sentences]
            homes = tuple(_first_holding(_fold(phrase), folded) or 0 for phrase in self.phrases)
            object.__setattr__(self, "phrase_sentences", homes)
        if self.phrases and not self.phrase_kinds:
            object.__setattr__(self, "phrase_kinds", (GIVEN,) * len(self.phrases))
        lengths = {name: len(getattr(self, name)) for name in ("phrases", "phrase_sentences", "phrase_kinds")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"phrases, phrase_sentences and phrase_kinds must be of one length, but are {lengths}")
        for index in self.phrase_sentences:
            if not 0 <= index < len(self.sentences):
                raise ValueError(f"phrase_sentences must be in [0, {len(self.sentences)}), but is {index}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as strings, lists and None: what JSON and Arrow hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def columns(self) -> dict[str, list[Any]]:
        """The fields of `COLUMNS` as lists: what a row has whose hierarchy was built before."""
        return {name: list(getattr(self, name)) for name in COLUMNS}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TextHierarchy":
        """Inverse of `to_dict`."""
        return cls(**fields)

    def sample(
        self, rng: random.Random, *, num_sentences: int = 5, num_phrases: int = 30, separator: str = ". "
    ) -> "TextHierarchy":
        """A random part of the hierarchy, as one training step sees it.

        Up to `num_sentences` sentences are drawn without replacement and kept in order; joined, they are the caption.
        Their phrases are those attached to them, and those that stand in them word for word; if there are more than
        `num_phrases`, kinds take turns, each in random order, so that no kind crowds out another. What is left keeps
        its order. Equal states of `rng` give equal samples.

        Raises:
            ValueError: `num_sentences` < 1 or `num_phrases` < 0.
        """
        if num_sentences < 1:
            raise ValueError(f"num_sentences must be at least 1, but is {num_sentences}")
        if num_phrases < 0:
            raise ValueError(f"num_phrases must be at least 0, but is {num_phrases}")
        chosen = sorted(rng.sample(range(len(self.sentences)), min(num_sentences, len(self.sentences))))
        sentences = [self.sentences[index] for index in chosen]
        homes = self._homes_in(chosen)
        kept = _take_turns(list(homes), [self.phrase_kinds[index] for index in homes], num_phrases, rng)
        return TextHierarchy(
            caption=_join_sentences(sentences, separator),
            sentences=tuple(sentences),
            phrases=tuple(self.phrases[index] for index in kept),
            phrase_sentences=tuple(homes[index] for index in kept),
            phrase_kinds=tuple(self.phrase_kinds[index] for index in kept),
            short_caption=self.short_caption,
        )

    def _homes_in(self, chosen: list[int]) -> dict[int, int]:
        """Phrase index -> position in `chosen` of a sentence that holds the phrase."""
        position_of = {sentence: position for position, sentence in enumerate(chosen)}
        folded = [_fold(self.sentences[sentence]) for sentence in chosen]
        homes = {}
        for index, (phrase, sentence) in enumerate(zip(self.phrases, self.phrase_sentences, strict=True)):
            home = position_of.get(sentence)
            if home is None:
                home = _first_holding(_fold(phrase), folded)
            if home is not None:
                homes[index] = home
        return homes


def build_text_hierarchy(
    caption: str | Sequence[str],
    *,
    sentences: Sequence[str] | None = None,
    phrases: Sequence[str | Mapping[str, Any]] | None = None,
    short_caption: str | None = None,
    extractor: PhraseExtractor | None = None,
) -> TextHierarchy:
    """Build the hierarchy of one image's text.

    Args:
        caption: one text, or several captions of one image: each is a sentence, joined they are the caption.
        sentences: the caption's sentences, instead of `split_sentences`; none given when empty.
        phrases: the phrases, instead of extracting them: strings, or mappings with "text" and, if known, "sentence"
            (an index) and "kind". Given phrases are kept as they are, repeated ones too; one without an index belongs
            to the first sentence that contains it, else to the first sentence. An empty list: no phrases.
        short_caption: a short text of the whole image; a blank one counts as none.
        extractor: extracts the phrases; `PhraseExtractor()` by default. A phrase that occurs in several sentences is
            listed once, with the first.

    Raises:
        ValueError: the caption or a given phrase is blank, or not a string.

    >>> build_text_hierarchy("A red cube is next to a ball. It shines.").phrases
    ('A red cube', 'next to a ball', 'a ball')
    """
    if isinstance(caption, str):
        whole, parts = caption.strip(), list(sentences or split_sentences(caption))
    else:
        if not isinstance(caption, Sequence):
            raise ValueError(f"caption must be a string or a list of strings, but is {caption!r}")
        captions = [_check_type(f"caption[{index}]", text).strip() for index, text in enumerate(caption)]
        captions = list(filter(None, captions))
        whole, parts = " ".join(captions), list(sentences or captions)
    _check_text("caption", whole)
    parts = [text for index, part in enumerate(parts) if (text := _check_type(f"sentences[{index}]", part).strip())]
    parts = parts or [whole]
    found = _extract(parts, extractor or PhraseExtractor()) if phrases is None else _attach(phrases, parts)
    short = _check_type("short_caption", short_caption).strip() if short_caption is not None else ""
    return TextHierarchy(
        caption=whole,
        sentences=tuple(parts),
        phrases=tuple(text for text, _, _ in found),
        phrase_sentences=tuple(sentence for _, sentence, _ in found),
        phrase_kinds=tuple(kind for _, _, kind in found),
        short_caption=short or None,
    )


def map_text_hierarchy(
    dataset: "datasets.Dataset",
    *,
    caption_column: str = "caption",
    num_proc: int | None = None,
    extractor: PhraseExtractor | None = None,
) -> "datasets.Dataset":
    """Add the columns `sentences`, `phrases`, `phrase_sentences` and `phrase_kinds` with a cached `datasets.map`.

    The cache is found again by a later process as long as the data set, the column, the extractor and this package's
    text rules are the same. A data set in memory (`Dataset.from_list`) has no cache, one loaded from files has.

    Raises:
        ValueError: the column is missing, or the caption of a row is blank; the message names the row.
    """
    from datasets.fingerprint import Hasher

    if caption_column not in dataset.column_names:
        raise ValueError(f"caption_column must be one of {dataset.column_names}, but is {caption_column!r}")
    extractor = extractor or PhraseExtractor()
    key = (dataset._fingerprint, caption_column, rules_digest(), Hasher.hash((extractor.tagger, extractor.kinds)))
    return dataset.map(
        partial(_add_hierarchy, caption_column=caption_column, extractor=extractor),
        with_indices=True,
        num_proc=num_proc,
        new_fingerprint=hashlib.sha256("/".join(key).encode()).hexdigest()[:32],
        desc="Sentences and phrases",
    )


def _add_hierarchy(
    row: dict[str, Any], index: int, *, caption_column: str, extractor: PhraseExtractor
) -> dict[str, list[Any]]:
    try:
        return build_text_hierarchy(row[caption_column], extractor=extractor).columns()
    except ValueError as error:
        raise ValueError(f"row {index}, column {caption_column!r}: {error}") from error


@lru_cache(maxsize=1)
def rules_digest() -> str:
    """Digest of this folder's source: an older release's cache is not mistaken for ours."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _extract(sentences: Sequence[str], extractor: PhraseExtractor) -> list[tuple[str, int, str]]:
    found: dict[str, tuple[str, int, str]] = {}
    for index, sentence in enumerate(sentences):
        for phrase in extractor.extract(sentence):
            found.setdefault(phrase.text.casefold(), (phrase.text, index, phrase.kind))
    return list(found.values())


def _attach(phrases: Sequence[str | Mapping[str, Any]], sentences: Sequence[str]) -> list[tuple[str, int, str]]:
    folded = [_fold(sentence) for sentence in sentences]
    found = []
    for index, phrase in enumerate(phrases):
        fields: Mapping[str, Any] = {"text": phrase} if isinstance(phrase, str) else phrase
        text = _check_text(f"phrases[{index}]", fields.get("text"))
        sentence = fields.get("sentence")
        if sentence is None:
            sentence = _first_holding(_fold(text), folded) or 0
        found.append((text, int(sentence), fields.get("kind") or GIVEN))
    return found


def _fold(text: str) -> str:
    """Words alone, between spaces: a phrase is in a sentence if its folded form is in the folded sentence."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _first_holding(folded_phrase: str, folded_sentences: Sequence[str]) -> int | None:
    if folded_phrase.isspace():
        return None
    return next((index for index, sentence in enumerate(folded_sentences) if folded_phrase in sentence), None)


def _take_turns(items: list[int], kinds: list[str], limit: int, rng: random.Random) -> list[int]:
    """At most `limit` of the sorted items; kinds take turns over a shuffle of each."""
    if len(items) <= limit:
        return items
    by_kind: dict[str, list[int]] = {}
    for item, kind in zip(items, kinds, strict=True):
        by_kind.setdefault(kind, []).append(item)
    for group in by_kind.values():
        rng.shuffle(group)
    rounds = ((turn, order, item) for order, group in enumerate(by_kind.values()) for turn, item in enumerate(group))
    return sorted(item for _, _, item in sorted(rounds)[:limit])


def _join_sentences(sentences: Sequence[str], separator: str) -> str:
    """Join with `separator`, which stands for a sentence's own full stop; other closing marks stay."""
    stop = separator.strip()
    joined = ""
    for sentence in sentences[:-1]:
        if stop and sentence.endswith(stop) and not sentence.endswith(stop * 2):
            joined += sentence.removesuffix(stop).rstrip() + separator
        elif stop and not sentence[-1].isalnum():
            joined += sentence + separator.removeprefix(stop)
        else:
            joined += sentence + separator
    return joined + sentences[-1]


def _check_type(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string, but is {text!r}")
    return text


def _check_text(name: str, text: Any) -> str:
    if not _check_type(name, text).strip():
        raise ValueError(f"{name} must hold some text, but is {text!r}")
    return text
