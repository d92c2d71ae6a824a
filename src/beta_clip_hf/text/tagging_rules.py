"""The rules of the rule tagger: they look at the neighbours of a word to settle its tag.

A rule takes a [`Reading`] and returns the tag of the current word. `RULES_OF_CLASSES` has a rule for each class of
words that may be several parts of speech, and `RULES_OF_WORDS` has rules for single words. `before` is the tag of the
word before the current one, with the letters of `taggers.py`. `after` is the class of the word after it, with the
letters of `word_classes.py`. In the examples, a bar stands before the current word.
"""

from collections.abc import Callable

from . import lexicon
from .reading import CONTINUES_NOUN_PHRASE, Reading
from .word_classes import is_plural, lemma_of_s_form


Rule = Callable[[Reading], str]

_RELATIVE_PRONOUNS = ("that", "who", "which")
# Determiners that also stand alone: "one | smiling at the camera".
_STAND_ALONE = ("one", "some", "all", "both", "other", "others", "each")
# Determiners that never stand alone.
_NEED_NOUN = ("a", "an", "the", "another", "every", "my", "your", "his", "its", "our", "their")


# Participles


def settle_participle(reading: Reading) -> str:
    """Settles a word in -ing or -ed: adjective inside a noun phrase, noun at its end, else verb."""
    before, after = reading.tag_before, reading.class_after
    if after in CONTINUES_NOUN_PHRASE:
        # "A brightly | painted wall" is to be read as "a painted wall".
        before = reading.tag_before_adverb()
    # "A | swimming pool", but not "they are | sailing boats".
    if _is_gerund_of_name(reading) and before != "B":
        return "A"
    # "A | running dog", "a small | painted wall", "the girl's | folded arms".
    if before in "DAG":
        return _settle_participle_in_phrase(reading, before)
    # "A big and | smiling boy".
    if before == "C" and reading.tags[-2] == "A" and after in CONTINUES_NOUN_PHRASE:
        return "A"
    if reading.word_class == "g":
        return _settle_ing_outside_phrase(reading, before)
    return _settle_ed_outside_phrase(reading, before)


def _is_gerund_of_name(reading: Reading) -> bool:
    """Tells whether a word in -ing is the first part of a name: "| swimming pool", "| climbing gear"."""
    return reading.word in lexicon.GERUNDS and reading.word_after in lexicon.GERUND_HEADS


def _settle_participle_in_phrase(reading: Reading, before: str) -> str:
    """Settles a participle after a determiner, an adjective or a genitive."""
    after = reading.class_after
    if reading.word_before in _STAND_ALONE:
        # "Both | painted walls", but "both | smiling boys" and "one | smiling at the camera".
        is_adjective = reading.word_class == "e" and after in CONTINUES_NOUN_PHRASE
        return "A" if is_adjective else "V"
    # "A | running dog".
    if after in CONTINUES_NOUN_PHRASE:
        return "A"
    # "A | smiling and happy boy".
    if after in "C," and before == "D":
        return "A"
    # "The | injured": `Reading` makes the last adjective of a noun phrase its noun.
    if reading.word_class == "e":
        return "A"
    # "The | siding" is a noun, "a man in red | climbing" a verb.
    return "N" if before in "DG" else "V"


def _settle_ing_outside_phrase(reading: Reading, before: str) -> str:
    """Settles a word in -ing that follows no part of a noun phrase: "in | running water", "a boy | climbing a tree"."""
    opens_phrase = before in ".PFVCX," and reading.class_after in CONTINUES_NOUN_PHRASE
    if opens_phrase and reading.word in lexicon.ADJECTIVES_ING:
        return "A"
    return "V"


def _settle_ed_outside_phrase(reading: Reading, before: str) -> str:
    """Settles a word in -ed that follows no part of a noun phrase: "with | painted walls", "a wall | painted red"."""
    after = reading.class_after
    if before == "N":
        # "A ball | shaped lamp" has a determiner, "houses | painted white" has none.
        if after in "Nbs" and reading.determiner():
            return "A"
        return "V"
    if before in ".PFVCX," and after in "ANbs":
        return "A"
    return "V"


# Verbs, some of which are nouns too


def settle_past(reading: Reading) -> str:
    """Settles an irregular simple past: a verb, but "a | rose bush" and "the | rose"."""
    if reading.tag_before not in "DA":
        return "V"
    if reading.class_after in CONTINUES_NOUN_PHRASE:
        return "A"
    return "N"


def settle_s_form(reading: Reading) -> str:
    """Settles the form in -s of a verb, "rides" or "waves": a verb after its subject, else a noun."""
    before, after = reading.tag_before, reading.class_after
    # "She | waves", "a dog that | barks".
    if before == "O" or reading.word_before in _RELATIVE_PRONOUNS:
        return "V"
    # "One | waves".
    if before == "D" and reading.word_before == "one":
        return "V"
    # "A man in red | watches the sea".
    if before == "A" and after in "DPRO" and _is_garment_colour(reading):
        reading.tags[-1] = "N"
        return "V"
    # "Big | waves", but "the last | rides a horse" and "the boy on the left | sits".
    if before == "A" and after != "D" and reading.word_before not in lexicon.SIDES:
        return "N"
    # "The | waves", "the girl's | walks", "on | waves".
    if before in "DGPFV.":
        return "N"
    return _settle_s_form_after_subject(reading, reading.tag_before_adverb())


def _settle_s_form_after_subject(reading: Reading, before: str) -> str:
    """Settles the form in -s of a verb where a subject may stand before it."""
    after = reading.class_after
    is_always_verb = lemma_of_s_form(reading.word) not in lexicon.NOUN_VERBS
    # "A dog sits and | watches.", but "sand and | waves".
    if before == "C":
        joins_verbs = reading.joins_verbs(is_always_verb=is_always_verb)
        return "V" if joins_verbs and after in "DPRO.," else "N"
    # "The boy | rides a bike", "the boy happily | sits".
    if after == "D" or (is_always_verb and before in "NRA"):
        return "V"
    if _cannot_be_verb(reading, before):
        return "N"
    # "A dog | races".
    if is_plural(reading.word_before) or reading.determiner():
        return "V"
    # "Water | drops on stones", but "above ocean | waves".
    if after not in CONTINUES_NOUN_PHRASE and reading.opens_clause():
        return "V"
    return "N"


def settle_base_form(reading: Reading) -> str:
    """Settles the base form of a verb, "ride" or "wave": a verb after a plural subject and after "to", else a noun."""
    before, after = reading.tag_before, reading.class_after
    is_always_verb = reading.word not in lexicon.NOUN_VERBS
    # "They | wave", "he can | wave", "dogs that | bark".
    if before in "OB" or reading.word_before in _RELATIVE_PRONOUNS:
        return "V"
    # "To | sit", "to | wave at people", but "to | work".
    if reading.word_before == "to":
        return "V" if is_always_verb or after in "DPRO" else "N"
    return _settle_base_form_after_subject(reading, reading.tag_before_adverb())


def _settle_base_form_after_subject(reading: Reading, before: str) -> str:
    """Settles the base form of a verb where a subject may stand before it."""
    after = reading.class_after
    is_always_verb = reading.word not in lexicon.NOUN_VERBS
    # "Men sit and | talk", but "a bike and | race".
    if before == "C":
        if reading.joins_verbs(is_always_verb=is_always_verb):
            return "V"
        return "N"
    if _cannot_be_verb(reading, before):
        return "N"
    # "Two dogs | race", "the crew | row a boat", "a man and a woman | ride".
    if is_plural(reading.word_before) or after == "D" or reading.joins_subjects():
        return "V"
    # "A couple | sit on a bench".
    return "V" if is_always_verb and after in "PRO" else "N"


def _is_garment_colour(reading: Reading) -> bool:
    """Tells whether a colour before the current word stands for clothes: "a man in red | watches the sea"."""
    return reading.word_before in lexicon.COLOURS and reading.tags[-2] in "PF"


def _cannot_be_verb(reading: Reading, before: str) -> bool:
    """Tells whether the current word has no subject before it, or its clause has another verb: "a water | slide is"."""
    return before != "N" or reading.has_verb or reading.class_after in "vB"


# Words without any mark


def settle_unmarked(reading: Reading) -> str:
    """Settles a word that looks like a noun: it is one, unless its place is that of an adjective or a verb."""
    if _is_predicate(reading):
        return "A"
    # "A soft , | pastel dress": the second of two adjectives in a row.
    if reading.tag_before == "," and reading.tags[-2] == "A" and reading.class_after in CONTINUES_NOUN_PHRASE + ",":
        return "A" if reading.determiner(words_back=1) else "N"
    return "V" if _is_unknown_verb(reading) else "N"


def _is_predicate(reading: Reading) -> bool:
    """Tells whether a word is an adjective after "is" or "seems": "the sky is | azure."."""
    follows_linking_verb = reading.tag_before == "B" or reading.word_before in lexicon.LINKING_VERBS
    return follows_linking_verb and reading.class_after in ".PX," and not is_plural(reading.word)


def _is_unknown_verb(reading: Reading) -> bool:
    """Tells whether a word in -s is a verb that no list has: "a man | vaults over a wall"."""
    if reading.tag_before != "N" or reading.has_verb or reading.class_after not in "DPO":
        return False
    if not is_plural(reading.word) or is_plural(reading.word_before):
        return False
    return reading.determiner() in lexicon.SINGULAR_DETERMINERS


# Single words


def _settle_side(reading: Reading) -> str:
    """Settles "top", "left" and other sides: an adjective in "the | top shelf", a noun in "the | top of the hill"."""
    before, after = reading.tag_before, reading.class_after
    # "A cat at the window | left sitting": a participle continues no noun phrase after its noun.
    ends_phrase = after not in CONTINUES_NOUN_PHRASE or (after == "g" and before == "N")
    if before not in "DNARGP" or not ends_phrase:
        return reading.word_class
    # "The very | top" is a noun, "just | left" is none.
    if before == "R" and reading.tags[-2] != "D":
        return reading.word_class
    return "N"


def _settle_nearby(reading: Reading) -> str:
    """Settles "nearby": an adjective in "a | nearby tree"."""
    if reading.class_after in CONTINUES_NOUN_PHRASE:
        return "A"
    return reading.word_class


def _settle_back(reading: Reading) -> str:
    """Settles "back": an adjective in "the | back door"."""
    if reading.tag_before == "D":
        return "A"
    return reading.word_class


def _settle_one(reading: Reading) -> str:
    """Settles "one": a noun in "the red | one"."""
    if reading.tag_before in "AD":
        return "N"
    return reading.word_class


def _settle_modal(reading: Reading) -> str:
    """Settles "can", "might", "must" and "will": a modal verb in "a blue square | can be seen", a noun in "a | can"."""
    before = reading.tag_before
    if reading.word_before in _NEED_NOUN:
        return "N"
    # "Through the window one | can see a lake", "three | can be seen".
    if before in "DAN" and _is_base_form(reading.word_after_adverb()):
        return reading.word_class
    # "A blue | can".
    if before in "DA":
        return "N"
    return "N" if _ends_name_of_can(reading) else reading.word_class


def _is_base_form(word: str) -> bool:
    """Tells whether a word is the base form of a verb, as it follows a modal verb."""
    return word in ("be", "have", "do") or word in lexicon.VERBS


def _ends_name_of_can(reading: Reading) -> bool:
    """Tells whether "can" ends the name of a thing: "a tin | can lies", "a watering | can"."""
    return reading.word == "can" and reading.word_before in lexicon.KINDS_OF_CANS


def _settle_being(reading: Reading) -> str:
    """Settles "being": a noun in "a human | being"."""
    is_noun = reading.word_before in ("human", "living") or reading.word_before in _NEED_NOUN
    return "N" if is_noun else reading.word_class


def _settle_may(reading: Reading) -> str:
    """Settles "may": the month in "a day in | May"."""
    is_noun = reading.tag_before in "PF" or reading.word_before in _NEED_NOUN
    return "N" if is_noun else reading.word_class


def _settle_all(reading: Reading) -> str:
    """Settles "all" and "both": an adverb in "they are | all happy"."""
    if reading.tag_before == "B":
        return "R"
    return reading.word_class


def _settle_colour(reading: Reading) -> str:
    """Settles a colour: a noun where it stands for clothes, as in "a man in | black" and "wearing | black"."""
    stands_for_clothes = reading.tag_before in "PF" or reading.word_before == "wearing"
    if stands_for_clothes and _ends_noun_phrase(reading):
        return "N"
    return reading.word_class


def _ends_noun_phrase(reading: Reading) -> bool:
    """Tells whether no noun follows: neither "a | red ball" nor "a | red and blue ball"."""
    if reading.class_after in "C,":
        return reading.classes[reading.index + 2] not in "ACeN"
    return reading.class_after not in CONTINUES_NOUN_PHRASE


def _settle_her(reading: Reading) -> str:
    """Settles "her": a pronoun in "behind | her", a determiner in "behind her dog"."""
    if reading.class_after not in CONTINUES_NOUN_PHRASE:
        return "O"
    return reading.word_class


def _settle_other(reading: Reading) -> str:
    """Settles "other": a part of the pronoun "each | other"."""
    if reading.word_before == "each":
        return "O"
    return reading.word_class


def _settle_that(reading: Reading) -> str:
    """Settles "that": a determiner in "on | that wall"."""
    is_determiner = reading.tag_before != "N" and reading.class_after in CONTINUES_NOUN_PHRASE
    return "D" if is_determiner else reading.word_class


def _settle_genitive(reading: Reading) -> str:
    """Settles "'s": a genitive in "the girl | 's bag", a verb in "it | 's a bag"."""
    is_genitive = reading.tag_before in "NA" and reading.class_after not in "DP"
    return reading.word_class if is_genitive else "B"


def _settle_apostrophe(reading: Reading) -> str:
    """Settles an apostrophe: a genitive in "the girls | ' bags", else a quotation mark."""
    is_genitive = reading.tag_before == "N" and reading.word_before.endswith("s")
    return reading.word_class if is_genitive else "X"


RULES_OF_CLASSES: dict[str, Rule] = {
    "g": settle_participle,
    "e": settle_participle,
    "v": settle_past,
    "s": settle_s_form,
    "b": settle_base_form,
    "N": settle_unmarked,
}
"""Class of a word → the rule that settles all words of this class."""

RULES_OF_WORDS: dict[str, Rule] = {
    **dict.fromkeys(lexicon.SIDES, _settle_side),
    **dict.fromkeys(lexicon.COLOURS, _settle_colour),
    "nearby": _settle_nearby,
    "back": _settle_back,
    "one": _settle_one,
    "being": _settle_being,
    "may": _settle_may,
    **dict.fromkeys(("can", "might", "must", "will"), _settle_modal),
    "all": _settle_all,
    "both": _settle_all,
    "her": _settle_her,
    "other": _settle_other,
    "that": _settle_that,
    "'s": _settle_genitive,
    "’s": _settle_genitive,
    "'": _settle_apostrophe,
    "’": _settle_apostrophe,
}
"""Word → the rule that settles it, unless its class has a rule already."""
