"""The texts of a row as a hierarchy: caption, sentences, phrases."""

from collections.abc import Mapping
from typing import Any

from ..text.hierarchy import HIERARCHY_COLUMNS, TextHierarchy, build_text_hierarchy
from ..text.phrases import PhraseExtractor
from ..text.sentences import split_sentences


def sentences_of(row: Mapping[str, Any]) -> list[str]:
    """Returns the sentences of a checked row's caption: those that it brings, or else those found in the caption."""
    return row.get("sentences") or row.get("captions") or split_sentences(row["caption"]) or [row["caption"]]


def hierarchy_of(row: Mapping[str, Any], extractor: PhraseExtractor | None = None) -> TextHierarchy:
    """Returns the row's caption, sentences and phrases.

    What the row brings is kept; an empty list of phrases means that there are none. What it does not bring is built
    from the caption.

    Args:
        row: A checked row. Its hierarchy may have been built before (`beta-clip hierarchy`, `map_text_hierarchy`).
        extractor: Finds phrases if the row brings none.
    """
    if row.get("phrase_sentences") is None:
        return build_text_hierarchy(
            row["caption"],
            sentences=row.get("sentences") or row.get("captions"),
            phrases=row.get("phrases"),
            short_caption=row.get("short_caption"),
            extractor=extractor,
        )
    fields = {name: row.get(name) for name in ("caption", "short_caption", *HIERARCHY_COLUMNS)}
    phrases = []
    for phrase in row["phrases"]:
        # A phrase with boxes is an object.
        if not isinstance(phrase, str):
            phrase = phrase["text"]
        phrases.append(phrase)
    fields["phrases"] = phrases
    return TextHierarchy.from_dict(fields)
