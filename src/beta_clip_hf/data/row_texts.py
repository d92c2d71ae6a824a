"""The texts of a row as a hierarchy: caption, sentences, phrases."""

from collections.abc import Mapping
from typing import Any

from ..text.hierarchy import HIERARCHY_COLUMNS, TextHierarchy, build_text_hierarchy
from ..text.phrases import PhraseExtractor
from ..text.sentences import split_sentences
from .fields import is_blank_text


def sentences_of(row: Mapping[str, Any]) -> list[str]:
    """Returns the sentences of a checked row's caption: those that the row has, or else those found in the caption."""
    return _sentences_brought(row) or split_sentences(row["caption"]) or [row["caption"]]


def hierarchy_of(row: Mapping[str, Any], extractor: PhraseExtractor | None = None) -> TextHierarchy:
    """Returns the row's caption, sentences and phrases.

    What the row brings is kept; an empty list of phrases means that there are none. What it does not bring is built
    from the caption.

    Args:
        row: A checked row. Its hierarchy may have been built before (`beta-clip hierarchy`, `map_text_hierarchy`).
        extractor: Finds phrases if the row brings none.
    """
    phrases = row.get("phrases")
    if row.get("phrase_sentences") is None:
        if phrases is not None:
            phrases = [phrase for phrase in phrases if not is_blank_text(_text_of(phrase))]
        return build_text_hierarchy(
            row["caption"],
            sentences=_sentences_brought(row) or None,
            phrases=phrases,
            short_caption=row.get("short_caption"),
            extractor=extractor,
        )
    fields = {name: row.get(name) for name in ("caption", "short_caption", *HIERARCHY_COLUMNS)}
    fields["phrases"] = [_text_of(phrase) for phrase in row["phrases"]]
    return TextHierarchy.from_dict(fields)


def _sentences_brought(row: Mapping[str, Any]) -> list[str]:
    """Returns the sentences that a row brings, without blank ones: a bad sentence costs the sentence, not the row."""
    return [text for text in row.get("sentences") or row.get("captions") or () if not is_blank_text(text)]


def _text_of(phrase: Any) -> Any:
    # A phrase with boxes is an object.
    return phrase if isinstance(phrase, str) else phrase["text"]
