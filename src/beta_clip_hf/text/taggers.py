"""Part-of-speech taggers: from the tokens of a text to one letter per token.

    D  determiner, possessive, number    A  adjective         N  noun                G  genitive 's
    V  verb                              B  be, have, modal   P  preposition         F  "of"
    L, l  relation in space              R  adverb            O  pronoun             C  and, or
    ,  comma                             .  end of sentence                          X  anything else

The rule tagger (`rule_tagger.py`) needs no data. The tags of the other taggers are those of the Penn Treebank and are
translated, so that one grammar of phrases serves all taggers.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from . import lexicon
from .rule_tagger import tag_by_rules
from .word_classes import SYMBOL_TAGS


# A token is a genitive 's, a word with its inner hyphens and apostrophes, a run of dots, or a single symbol.
TOKEN = re.compile(r"['’]s\b(?!-)|[^\W_]+(?:(?:[-'’](?!s\b)|['’](?=s-))[^\W_]+)*|\.{2,}|[^\w\s]|_+")
Tagger = Callable[[Sequence[str]], str]

_LONGEST_RELATION = max(map(len, lexicon.RELATIONS))
# Few words begin a relation: this set spares most words the search for one.
_RELATION_STARTS = frozenset(words[0] for words in lexicon.RELATIONS)


def get_tagger(tagger: str | Tagger) -> Tagger:
    """Returns the tagger with a name ("rules", "nltk" or "textblob"), or `tagger` itself if it is a callable.

    Raises:
        ValueError: If the name is unknown, or NLTK's data are not there.
        ImportError: If the tagger's package is not installed.
    """
    if callable(tagger):
        return tagger
    taggers: dict[str, Tagger] = {"rules": tag_by_rules, "nltk": tag_with_nltk, "textblob": tag_with_textblob}
    if tagger not in taggers:
        raise ValueError(f"tagger must be one of {sorted(taggers)} or a callable, but is {tagger!r}")
    if tagger != "rules":
        _import(tagger)
    if tagger == "nltk":
        _check_nltk_data()
    return taggers[tagger]


def _check_nltk_data() -> None:
    """Raises `ValueError` if NLTK's tagger has no data: it says so with the first text, at length."""
    try:
        _import("nltk").pos_tag(["a"])
    except LookupError as error:
        raise ValueError(
            "the tagger nltk must have its data in NLTK's data path, but has not: get it with "
            "python -m nltk.downloader averaged_perceptron_tagger_eng, or take --tagger rules"
        ) from error


def mark_relations(words: Sequence[str], tags: str) -> str:
    """Replaces the tags of relations in space: `L` for the first word of a relation, `l` for its other words.

    Args:
        words: The lower-case words.
        tags: Their tags, one letter for each word.

    >>> mark_relations("a dog in front of a tree".split(), "DNPNFDN")
    'DNLllDN'
    """
    marked = list(tags)
    position = 0
    while position < len(words):
        word = words[position]
        length = 0
        if word in _RELATION_STARTS:
            length = _relation_length(words, position)
        # "The left of the picture" is a noun phrase, "left of the tree" a relation.
        is_noun = word in lexicon.SIDES and tags[position - 1 : position] == "D"
        if length and not is_noun:
            is_spatial = tuple(words[position : position + length]) not in lexicon.NOT_SPATIAL
            tags_of_relation = "P" * length
            if is_spatial:
                tags_of_relation = "L" + "l" * (length - 1)
            marked[position : position + length] = tags_of_relation
        elif marked[position] == "P" and word in lexicon.SPATIAL_PREPOSITIONS:
            marked[position] = "L"
        position += length or 1
    return "".join(marked)


def _relation_length(words: Sequence[str], start: int) -> int:
    """Returns the number of words of the longest relation that begins at `start`, or 0 if none does."""
    for length in range(_LONGEST_RELATION, 1, -1):
        if tuple(words[start : start + length]) in lexicon.RELATIONS:
            return length
    return 0


def tag_with_nltk(tokens: Sequence[str]) -> str:
    """Tags tokens with NLTK's averaged perceptron.

    Its data, `averaged_perceptron_tagger_eng`, must be in NLTK's data path.
    """
    tagged = _import("nltk").pos_tag(list(tokens))
    return tags_from_penn(tokens, [tag for _, tag in tagged])


def tag_with_textblob(tokens: Sequence[str]) -> str:
    """Tags tokens with the pattern lexicon that comes with TextBlob. It needs no download."""
    tag = _import("textblob.en").tag
    tagged = tag(" ".join(tokens), tokenize=False)
    # Some tokens are part of its own markup ("/", "&slash;") and merge with their neighbours. Then each token is tagged
    # alone.
    if len(tagged) != len(tokens):
        tagged = []
        for token in tokens:
            tagged_token = tag(token, tokenize=False) or [(token, "SYM")]
            tagged.append(tagged_token[0])
    return tags_from_penn(tokens, [tag for _, tag in tagged])


def _import(name: str) -> Any:
    """Imports a package of the extra `text`, or tells how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"the tagger {package} is not installed: pip install {package}") from error


_PENN_TAGS = {
    **dict.fromkeys(("DT", "PDT", "PRP$", "WP$", "CD"), "D"),
    **dict.fromkeys(("JJ", "JJR", "JJS"), "A"),
    **dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "N"),
    **dict.fromkeys(("VB", "VBD", "VBG", "VBN", "VBP", "VBZ"), "V"),
    **dict.fromkeys(("IN", "TO", "RP"), "P"),
    **dict.fromkeys(("RB", "RBR", "RBS"), "R"),
    **dict.fromkeys(("PRP", "EX", "WDT", "WP"), "O"),
    "MD": "B",
    "POS": "G",
}


def tags_from_penn(tokens: Sequence[str], penn_tags: Sequence[str]) -> str:
    """Translates Penn Treebank tags, one for each token. A participle inside a noun phrase becomes an adjective.

    >>> tags_from_penn("a running dog is wet".split(), ["DT", "VBG", "NN", "VBZ", "JJ"])
    'DANBA'
    """
    tags = [_PENN_TAGS.get(tag, "X") for tag in penn_tags]
    for index, token in enumerate(tokens):
        word = token.lower()
        if word in SYMBOL_TAGS:
            tags[index] = SYMBOL_TAGS[word]
        elif not word[0].isalnum() and tags[index] != "G":
            tags[index] = "X"
        elif tags[index] == "V" and word in lexicon.AUXILIARIES:
            tags[index] = "B"
        elif penn_tags[index] in ("VBG", "VBN") and _is_inside_noun_phrase(tags, index):
            tags[index] = "A"
    return "".join(tags)


def _is_inside_noun_phrase(tags: Sequence[str], index: int) -> bool:
    """Tells whether the words around a word are those of a noun phrase: "a | running dog"."""
    if not 0 < index < len(tags) - 1:
        return False
    return tags[index - 1] in "DAG" and tags[index + 1] in "AN"
