"""Finds the class of an English word without its neighbours.

Most classes are final tags, written with the letters of `taggers.py`. Five classes stay open until the neighbours of
the word are known (`tagging_rules.py`):

    g  word in -ing                              s  known verb in -s
    e  word in -ed, or an irregular participle   b  base form of a known verb
    v  simple past of an irregular verb
"""

from functools import lru_cache

from . import lexicon


SYMBOL_TAGS = {
    **dict.fromkeys(lexicon.CONJUNCTIONS, "C"),
    **dict.fromkeys(".!?;:…。！？।॥؟۔", "."),  # noqa: RUF001
    "of": "F",
    ",": ",",
    "'s": "G",
    "’s": "G",
    "'": "G",
    "’": "G",
}
"""Tags of conjunctions, punctuation marks and the genitive. They need no tagger: every tagger gives these tags."""

# The first list that holds a word gives its class.
_LISTED_CLASSES = (
    (lexicon.DETERMINERS, "D"),
    (lexicon.AUXILIARIES, "B"),
    (lexicon.PRONOUNS, "O"),
    (lexicon.PREPOSITIONS, "P"),
    (lexicon.CLAUSE_WORDS, "X"),
    # "Caught" is a simple past and a participle: only a form that is no participle is a verb for certain.
    (lexicon.PASTS - lexicon.PARTICIPLES, "v"),
    # "Broken" describes a noun more often than it is a verb.
    (lexicon.PARTICIPLES - lexicon.ADJECTIVES, "e"),
    (lexicon.ADJECTIVES, "A"),
    (lexicon.ADVERBS, "R"),
    (lexicon.NOUNS_ING, "N"),
    (lexicon.NOUNS_ED, "N"),
    (lexicon.NOT_PLURAL, "N"),
    # "Fish" is a verb too.
    (lexicon.IRREGULAR_PLURALS - lexicon.VERBS, "N"),
)
_ADJECTIVE_ENDINGS = ("ous", "ful", "less", "ish", "able", "ible", "ial", "ical", "like", "style", "-looking", "most")


# A caption repeats few words: remembering their classes makes tagging several times faster.
@lru_cache(maxsize=65536)
def word_class(word: str) -> str:
    """Returns the class of a lower-case word, one letter.

    >>> word_class("the"), word_class("hairy"), word_class("running"), word_class("rides"), word_class("lamp")
    ('D', 'A', 'g', 's', 'N')
    """
    if word in SYMBOL_TAGS:
        return SYMBOL_TAGS[word]
    for words, listed_class in _LISTED_CLASSES:
        if word in words:
            return listed_class
    if word.isdecimal():
        return "D"
    if not _is_latin(word):
        return "X"
    # "3d" and "18-wheel" describe a noun.
    if word[0].isdigit():
        return "A"
    return _class_of_ending(word) or _class_of_stem(word)


def _class_of_ending(word: str) -> str:
    """Returns the class that the ending of a verb or an adverb gives, else "": "climbing", "painted", "slowly"."""
    if word.endswith("ing") and len(word) > 4:
        return "g"
    if word.endswith("ed") and len(word) > 3:
        # "Red-haired" is never a verb.
        return "A" if "-" in word else "e"
    if word.endswith("ly") and word not in lexicon.NOUNS_LY:
        return "R"
    if word.endswith("s") and lemma_of_s_form(word):
        return "s"
    return ""


def _class_of_stem(word: str) -> str:
    """Returns the class of a word without the ending of a verb: "ride", "colourful", "larger", "lamp"."""
    if word in lexicon.VERBS:
        return "b"
    # "Vegetable" ends like an adjective, and "owner" like a comparative.
    if word in lexicon.NOUNS_LIKE_ADJECTIVES:
        return "N"
    if word.endswith(_ADJECTIVE_ENDINGS) or _is_compared(word):
        return "A"
    return "N"


def lemma_of_s_form(word: str) -> str | None:
    """Returns the verb that becomes a word by its ending -s, or `None` if no such verb is known.

    >>> lemma_of_s_form("rides"), lemma_of_s_form("watches"), lemma_of_s_form("carries"), lemma_of_s_form("lamps")
    ('ride', 'watch', 'carry', None)
    """
    for ending, replacement in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending):
            lemma = word.removesuffix(ending) + replacement
            if lemma in lexicon.VERBS:
                return lemma
    return None


def is_plural(word: str) -> bool:
    """Tells whether a noun looks like a plural.

    >>> is_plural("dogs"), is_plural("children"), is_plural("grass"), is_plural("bus")
    (True, True, False, False)
    """
    if word in lexicon.IRREGULAR_PLURALS:
        return True
    return word.endswith("s") and not word.endswith("ss") and word not in lexicon.NOT_PLURAL


def _is_compared(word: str) -> bool:
    """Tells whether a word is a comparative or superlative of a known adjective: "larger", "bigger", "busiest"."""
    for ending in ("er", "est"):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            # "Tall-er", "large-r", "big-ger", "bus-ier".
            candidates = {stem, stem + "e", stem[:-1], stem[:-1] + "y"}
            return not candidates.isdisjoint(lexicon.ADJECTIVES)
    return False


def _is_latin(word: str) -> bool:
    """Tells whether a word begins with a letter or digit and has Latin letters only."""
    if not word[0].isalnum():
        return False
    return all(letter < lexicon.FIRST_LETTER_AFTER_LATIN or not letter.isalpha() for letter in word)
