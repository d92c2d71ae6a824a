"""Part-of-speech taggers: from the tokens of a text to one letter per token.

    D determiner, possessive, number    A adjective          N noun                G genitive 's
    V verb                              B be, have, modal    P preposition         F "of"
    L l l  relation in space            R adverb             O pronoun             C and, or
    ,  comma                            .  end of a sentence                       X anything else

The rule tagger (`rule_tagger.py`) needs no data. The others translate Penn Treebank tags: one grammar serves all.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from . import lexicon
from .rule_tagger import CONJUNCTION_OR_SYMBOL, tag_by_rules


# Words with inner hyphens and apostrophes, the genitive 's, runs of dots, single symbols.
TOKEN = re.compile(r"['’]s\b(?!-)|[^\W_]+(?:(?:[-'’](?!s\b)|['’](?=s-))[^\W_]+)*|\.{2,}|[^\w\s]|_+")
Tagger = Callable[[Sequence[str]], str]

_MAX_RELATION = max(map(len, lexicon.RELATIONS))
_RELATION_STARTS = frozenset(words[0] for words in lexicon.RELATIONS)


def get_tagger(tagger: str | Tagger) -> Tagger:
    """Return the tagger of that name ("rules", "nltk", "textblob"), or `tagger` itself if it is a callable.

    Raises:
        ValueError: the name is unknown.
        ImportError: the tagger's package is not installed.
    """
    if callable(tagger):
        return tagger
    taggers: dict[str, Tagger] = {"rules": tag_by_rules, "nltk": tag_with_nltk, "textblob": tag_with_textblob}
    if tagger not in taggers:
        raise ValueError(f"tagger must be one of {sorted(taggers)} or a callable, but is {tagger!r}")
    if tagger != "rules":
        _import(tagger)
    return taggers[tagger]


def mark_relations(words: Sequence[str], tags: str) -> str:
    """Tag what relates things in space: its first word `L`, the following ones `l` ("in front of" is `Lll`)."""
    marked = list(tags)
    position = 0
    while position < len(words):
        length = _relation_length(words, position) if words[position] in _RELATION_STARTS else 0
        if length and not (words[position] in lexicon.SIDES and tags[position - 1 : position] == "D"):
            spatial = tuple(words[position : position + length]) not in lexicon.NOT_SPATIAL
            marked[position : position + length] = "L" + "l" * (length - 1) if spatial else "P" * length
        elif marked[position] == "P" and words[position] in lexicon.SPATIAL_PREPOSITIONS:
            marked[position] = "L"
        position += length or 1
    return "".join(marked)


def _relation_length(words: Sequence[str], start: int) -> int:
    for length in range(_MAX_RELATION, 1, -1):
        if tuple(words[start : start + length]) in lexicon.RELATIONS:
            return length
    return 0


def tag_with_nltk(tokens: Sequence[str]) -> str:
    """NLTK's averaged perceptron; its data (averaged_perceptron_tagger_eng) must be in NLTK's data path."""
    return tags_from_penn(tokens, [tag for _, tag in _import("nltk").pos_tag(list(tokens))])


def tag_with_textblob(tokens: Sequence[str]) -> str:
    """The pattern lexicon that TextBlob brings along; needs no download."""
    tag = _import("textblob.en").tag
    tagged = tag(" ".join(tokens), tokenize=False)
    if len(tagged) != len(tokens):  # symbols of its markup ("/", "&slash;") merge tokens: then one by one
        tagged = [(tag(token, tokenize=False) or [(token, "SYM")])[0] for token in tokens]
    return tags_from_penn(tokens, [tag for _, tag in tagged])


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f'{package} is not installed: pip install "beta-clip-hf[text]"') from error


_PENN = {
    **dict.fromkeys(("DT", "PDT", "PRP$", "WP$", "CD"), "D"),
    **dict.fromkeys(("JJ", "JJR", "JJS"), "A"),
    **dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "N"),
    **dict.fromkeys(("VB", "VBD", "VBG", "VBN", "VBP", "VBZ"), "V"),
    **dict.fromkeys(("IN", "TO", "RP"), "P"),
    **dict.fromkeys(("RB", "RBR", "RBS"), "R"),
    **dict.fromkeys(("PRP", "EX", "WDT", "WP"), "O"),
    **{"MD": "B", "POS": "G"},
}


def tags_from_penn(tokens: Sequence[str], penn: Sequence[str]) -> str:
    """Translate Penn Treebank tags, one per token; a participle inside a noun phrase becomes an adjective."""
    tags = [_PENN.get(tag, "X") for tag in penn]
    for index, token in enumerate(tokens):
        word = token.lower()
        if word in CONJUNCTION_OR_SYMBOL:
            tags[index] = CONJUNCTION_OR_SYMBOL[word]
        elif not (word[0].isalnum() or tags[index] == "G"):
            tags[index] = "X"
        elif tags[index] == "V" and word in lexicon.AUXILIARIES:
            tags[index] = "B"
        elif penn[index] in ("VBG", "VBN") and 0 < index < len(tags) - 1:
            inside = tags[index - 1] in "DAG" and tags[index + 1] in "AN"
            tags[index] = "A" if inside else "V"
    return "".join(tags)
