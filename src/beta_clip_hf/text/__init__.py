"""From a caption to its sentences and phrases. No dependency and no download."""

from .hierarchy import TextHierarchy, build_text_hierarchy
from .map import map_text_hierarchy
from .phrases import Phrase, PhraseExtractor
from .sentences import split_sentences


__all__ = [
    "Phrase",
    "PhraseExtractor",
    "TextHierarchy",
    "build_text_hierarchy",
    "map_text_hierarchy",
    "split_sentences",
]
