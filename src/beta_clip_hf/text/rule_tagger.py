"""A part-of-speech tagger for English captions: closed classes, suffixes, neighbours. No data, linear time.

A word alone gets a class: a final tag (the letters of taggers.py), or one that its neighbours settle:

    g  in -ing     e  in -ed, or an irregular participle     v  simple past     s  verb in -s     b  verb's base form
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from . import lexicon


CONJUNCTION_OR_SYMBOL = {
    **dict.fromkeys(lexicon.CONJUNCTIONS, "C"),
    **dict.fromkeys(".!?;:…。！？।॥؟۔", "."),  # noqa: RUF001
    **{"of": "F", ",": ",", "'s": "G", "’s": "G", "'": "G", "’": "G"},
}
_CLOSED = (
    (lexicon.DETERMINERS, "D"),
    (lexicon.AUXILIARIES, "B"),
    (lexicon.PRONOUNS, "O"),
    (lexicon.PREPOSITIONS, "P"),
    (lexicon.CLAUSE_WORDS, "X"),
    (lexicon.PASTS - lexicon.PARTICIPLES, "v"),
    (lexicon.PARTICIPLES - lexicon.ADJECTIVES, "e"),
    (lexicon.ADJECTIVES, "A"),
    (lexicon.ADVERBS, "R"),
    (lexicon.NOUNS_ING | lexicon.NOUNS_ED | lexicon.NOT_PLURAL | (lexicon.IRREGULAR_PLURALS - lexicon.VERBS), "N"),
)
_ADJECTIVE_ENDINGS = ("ous", "ful", "less", "ish", "able", "ible", "ial", "ical", "like", "style", "-looking", "most")
_NOUNY = "ANgebs"  # classes of words that may continue a noun phrase
_LAST = 6  # how far back a noun phrase is followed: keeps the tagger linear
# Words of a closed class that their place may change; `_settle_word` is asked for these and for "G" only.
_PLACED = lexicon.SIDES | lexicon.COLOURS | {"nearby", "back", "one", "can", "all", "both", "her", "other", "that"}


def tag_by_rules(tokens: Sequence[str]) -> str:
    """Tag English caption tokens, one letter per token.

    >>> tag_by_rules("A dog runs through the tall grass .".split())
    'DNVPDAN.'
    """
    return _Reading([token.lower() for token in tokens]).tags()


@lru_cache(maxsize=65536)
def word_class(word: str) -> str:
    """Class of a lower-case word alone, see this module's head."""
    if word in CONJUNCTION_OR_SYMBOL:
        return CONJUNCTION_OR_SYMBOL[word]
    for words, tag in _CLOSED:
        if word in words:
            return tag
    if word.isdecimal():
        return "D"
    if not _is_latin(word):
        return "X"
    if word[0].isdigit():
        return "A"
    return _open_class(word)


def _open_class(word: str) -> str:
    if word.endswith("ing") and len(word) > 4:
        return "g"
    if word.endswith("ed") and len(word) > 3:
        return "A" if "-" in word else "e"
    if word.endswith("ly") and word not in lexicon.NOUNS_LY:
        return "R"
    if word.endswith("s") and lemma_of_s(word):
        return "s"
    if word in lexicon.VERBS:
        return "b"
    if word in lexicon.NOUNS_LIKE_ADJECTIVES:
        return "N"
    if word.endswith(_ADJECTIVE_ENDINGS) or _is_compared(word):
        return "A"
    return "N"


def lemma_of_s(word: str) -> str | None:
    """`rides` -> `ride`, `watches` -> `watch`, `carries` -> `carry`; None when no known verb is left."""
    for ending, replacement in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending) and word[: -len(ending)] + replacement in lexicon.VERBS:
            return word[: -len(ending)] + replacement
    return None


def _is_compared(word: str) -> bool:
    """Comparative or superlative of a known adjective: larger, bigger, busiest."""
    for ending in ("er", "est"):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            return any(form in lexicon.ADJECTIVES for form in (stem, stem + "e", stem[:-1], stem[:-1] + "y"))
    return False


def _is_latin(word: str) -> bool:
    return word[0].isalnum() and all(letter < "ɐ" or not letter.isalpha() for letter in word)


def _is_plural(word: str) -> bool:
    if word in lexicon.IRREGULAR_PLURALS:
        return True
    return word.endswith("s") and not word.endswith("ss") and word not in lexicon.NOT_PLURAL


class _Reading:
    """One pass over the words from left to right, with the tags so far and the classes of what follows."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.classes = [*map(word_class, words), ".", "."]
        self.done = ["."]  # the tags so far, after a first full stop
        self.index = 0
        self.has_verb = False  # a finite one, since the clause began: an English clause has one

    def tags(self) -> str:
        for word, kind in zip(self.words, self.classes, strict=False):
            tag = kind
            if kind in _SETTLE:
                tag = _SETTLE[kind](self)
            elif word in _PLACED or kind == "G":
                tag = self._settle_word(word, kind)
            if tag in ".XO":
                self.has_verb = False
            elif tag == "B" or (tag == "V" and kind not in "ge"):
                self.has_verb = True
            if tag in "VB" and self.before() == "to":
                self.done[-1] = "X"  # an infinitive's "to" is no preposition
            if tag not in "NAGC," and self.done[-1] in "AC,":
                self._close_noun_phrase()
            self.done.append(tag)
            self.index += 1
        self._close_noun_phrase()
        return "".join(self.done[1:])

    def before(self) -> str:
        return self.words[self.index - 1] if self.index else ""

    def after(self) -> str:
        return self.words[self.index + 1] if self.index + 1 < len(self.words) else ""

    def _settle_word(self, word: str, kind: str) -> str:
        """A word that is no verb."""
        previous, following = self.done[-1], self.classes[self.index + 1]
        if word in lexicon.SIDES and previous in "DNARGP" and (following not in _NOUNY or following + previous == "gN"):
            return "N" if previous != "R" or self.done[-2] == "D" else kind
        if word == "nearby" and following in _NOUNY:
            return "A"
        if word == "back" and previous == "D":
            return "A"
        if word in ("one", "can") and previous in "AD":
            return "N"
        if word in ("all", "both") and previous == "B":
            return "R"
        if word in lexicon.COLOURS and self._phrase_ends(following):
            return "N" if previous in "PF" or self.before() == "wearing" else kind
        if word == "her" and following not in _NOUNY:
            return "O"
        if word == "other" and self.before() == "each":
            return "O"
        if word == "that" and previous != "N" and following in _NOUNY:
            return "D"
        if kind == "G" and not self._is_genitive(word, following):
            return "B" if word[1:] else "X"
        return kind

    def _phrase_ends(self, following: str) -> bool:
        if following in "C,":
            return self.classes[self.index + 2] not in "ACeN"
        return following not in _NOUNY

    def _is_genitive(self, word: str, following: str) -> bool:
        if word[1:]:
            return self.done[-1] in "NA" and following not in "DP"
        return self.done[-1] == "N" and self.before().endswith("s")

    def _settle_participle(self) -> str:
        """`A` inside a noun phrase ("a running dog", "a painted wall"), `N` at its end ("the siding"), else `V`."""
        word, kind = self.words[self.index], self.classes[self.index]
        previous, following = self.done[-1], self.classes[self.index + 1]
        if previous == "R":
            previous = self.done[-2] if following in _NOUNY else previous
        if word in lexicon.GERUNDS and self.after() in lexicon.GERUND_HEADS and previous != "B":
            return "A"
        if previous in "DAG":
            return self._participle_in_phrase(kind, previous, following)
        if previous == "C" and self.done[-2] == "A" and following in _NOUNY:
            return "A"
        if kind == "g":
            return "A" if word in lexicon.ADJECTIVES_ING and previous in ".PFVCX," and following in _NOUNY else "V"
        if previous == "N":
            return "A" if following in "Nbs" and self._determiner() else "V"
        return "A" if previous in ".PFVCX," and following in "ANbs" else "V"

    def _participle_in_phrase(self, kind: str, previous: str, following: str) -> str:
        if self.before() in ("one", "some", "all", "both", "other", "others", "each"):
            return "A" if kind == "e" and following in _NOUNY else "V"
        if following in _NOUNY or (following in "C," and previous == "D"):
            return "A"
        if kind == "e":
            return "A"
        return "N" if previous in "DG" else "V"

    def _settle_past(self) -> str:
        if self.done[-1] in "DA":
            return "A" if self.classes[self.index + 1] in _NOUNY else "N"
        return "V"

    def _settle_s(self) -> str:
        """`rides`, `waves`: verb after its subject, noun elsewhere."""
        word, previous, following = self.words[self.index], self.done[-1], self.classes[self.index + 1]
        sure = lemma_of_s(word) not in lexicon.NOUN_VERBS
        if previous == "O" or self.before() in ("that", "who", "which"):
            return "V"
        if previous == "D" and self.before() == "one":
            return "V"
        if previous == "A" and self.before() in lexicon.COLOURS and self.done[-2] in "PF" and following in "DPRO":
            self.done[-1] = "N"  # "a man in red watches the ..."
            return "V"
        if previous == "A" and following != "D" and self.before() not in lexicon.SIDES:
            return "N"
        if previous in "DGPFV.":
            return "N"
        if previous == "R":
            previous = self.done[-2]
        if previous == "C":
            return "V" if self._verb_joined(sure) and following in "DPRO.," else "N"
        if following == "D" or (sure and previous in "NRA"):
            return "V"
        if previous != "N" or self.has_verb or following in "vB":
            return "N"
        if _is_plural(self.before()) or self._determiner():
            return "V"
        return "V" if following not in _NOUNY and self._opens_clause() else "N"

    def _settle_base(self) -> str:
        """`ride`, `wave`: verb after a plural subject, "to" and the like, noun elsewhere."""
        word, previous, following = self.words[self.index], self.done[-1], self.classes[self.index + 1]
        sure = word not in lexicon.NOUN_VERBS
        if previous in "OB" or self.before() in ("that", "who", "which"):
            return "V"
        if self.before() == "to":
            return "V" if sure or following in "DPRO" else "N"
        if previous == "R":
            previous = self.done[-2]
        if previous == "C":
            return "V" if self._verb_joined(sure) else "N"
        if previous != "N" or self.has_verb or following in "vB":
            return "N"
        if _is_plural(self.before()) or following == "D" or self._subject_joined():
            return "V"
        return "V" if sure and following in "PRO" else "N"

    def _settle_noun(self) -> str:
        """A word without any mark: noun, unless its place says adjective or verb."""
        word, previous, following = self.words[self.index], self.done[-1], self.classes[self.index + 1]
        if (previous == "B" or self.before() in lexicon.LINKING_VERBS) and following in ".PX," and not _is_plural(word):
            return "A"
        if previous == "," and self.done[-2] == "A" and following in _NOUNY + ",":
            return "A" if self._determiner(self.done[:-1]) else "N"
        unknown_verb = previous == "N" and not self.has_verb and following in "DPO" and _is_plural(word)
        if unknown_verb and not _is_plural(self.before()):
            return "V" if self._determiner() in lexicon.SINGULAR_DETERMINERS else "N"
        return "N"

    def _determiner(self, tags: list[str] | None = None) -> str:
        """The determiner of the noun phrase that ends here, or ""."""
        tags = self.done if tags is None else tags
        for back in range(1, min(_LAST, len(tags) - 1) + 1):
            if tags[-back] == "D":
                return self.words[len(tags) - 1 - back]
            if tags[-back] not in "NAC,":
                break
        return ""

    def _opens_clause(self) -> bool:
        """Whether a noun phrase without determiner, which ends here, is no object: nothing governs it."""
        for tag in reversed(self.done[-_LAST:]):
            if tag not in "NA":
                return tag not in "VPFL"
        return False

    def _subject_joined(self) -> bool:
        """Whether two subjects end here: "a man and a woman"."""
        for back in range(1, min(_LAST, len(self.done) - 1)):
            if self.done[-back] == "C":
                return self.done[-back - 1] == "N"
            if self.done[-back] not in "DAN":
                break
        return False

    def _verb_joined(self, sure: bool) -> bool:
        """Whether the conjunction before this word joins two verbs: "sits and watches"."""
        return self.done[-2] == "V" or (self.has_verb and sure)

    def _close_noun_phrase(self) -> None:
        """A determiner and adjectives without a noun: the last adjective is the noun ("another black")."""
        last = len(self.done) - 1
        while last and self.done[last] in "C,":
            last -= 1
        if self.done[last] != "A":
            return
        for back in range(last - 1, max(last - _LAST, 0), -1):
            if self.done[back] == "D":
                self.done[last] = "N"
            if self.done[back] != "A":
                return


_SETTLE: dict[str, Callable[[_Reading], str]] = {
    "g": _Reading._settle_participle,
    "e": _Reading._settle_participle,
    "v": _Reading._settle_past,
    "s": _Reading._settle_s,
    "b": _Reading._settle_base,
    "N": _Reading._settle_noun,
}
