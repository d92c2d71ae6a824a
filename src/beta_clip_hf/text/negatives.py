"""False variants of a phrase by rules, for captions whose data brings none."""

import re

from .phrases import PhraseExtractor
from .taggers import TOKEN, get_tagger


# Relations that are false the other way round: where one thing is left of another, that one is not left of the first.
_ASYMMETRIC_RELATION = re.compile(
    r"""\s+(?:
    (?:(?:to|on|at)\s+the\s+)?(?:far\s+)?(?:left|right)(?:(?:\s+|-)hand)?(?:\s+side)?\s+of
    | above | below | beneath | under(?:neath)? | over | atop | behind | within | inside(?:\s+of)?
    | (?:on|at)\s+(?:the\s+)?top\s+of | in\s+(?:front|back)\s+of | (?:higher|lower)\s+than
    )\s+""",
    re.VERBOSE | re.IGNORECASE,
)
_NOUN_EXTRACTOR = PhraseExtractor(kinds=("noun",))
_ARTICLES = ("a", "an", "the")


def exchanged_relation(phrase: str) -> str | None:
    """Exchanges the two things of a phrase that relates them in space, such as "a cup left of a plate".

    The relation must be one that is false the other way round: "left of", "above", "in front of", "inside" and the
    like, but not "next to". On both sides of it there must be a noun phrase and nothing else. Articles stay in their
    places where grammar lets them, so that they do not tell which phrase is the false one.

    The result is nearly always false where the phrase is true. It may still be true of two other things of the picture.

    Args:
        phrase: An English phrase.

    Returns:
        The phrase with its two noun phrases exchanged; `None` if it has another form.

    >>> exchanged_relation("red star to the left of the ring")
    'ring to the left of the red star'
    >>> exchanged_relation("An orange cup on top of the table")
    'A table on top of the orange cup'
    >>> exchanged_relation("a cup next to a plate") is None
    True
    """
    relation = _ASYMMETRIC_RELATION.search(phrase)
    if relation is None:
        return None
    first = phrase[: relation.start()].strip()
    second = phrase[relation.end() :].strip()
    if not (_is_noun_phrase(first) and _is_noun_phrase(second)):
        return None
    # A capital letter belongs to the place and not to the word, unless it is that of an abbreviation or a name.
    has_capital = first[0].isupper() and (first[1:2].islower() or first[1:2].isspace())
    if has_capital:
        first = first[0].lower() + first[1:]
    first_article, first_noun = _split_article(first)
    second_article, second_noun = _split_article(second)
    if first_noun.casefold() == second_noun.casefold():
        return None
    if _can_keep_articles((first_article, first_noun), (second_article, second_noun)):
        first, second = _with_article(second_article, first_noun), _with_article(first_article, second_noun)
    if has_capital:
        second = second[0].upper() + second[1:]
    return f"{second}{relation[0]}{first}"


def _is_noun_phrase(text: str) -> bool:
    """Tells whether a text is one noun phrase and nothing else."""
    phrases = _NOUN_EXTRACTOR(text)
    return bool(phrases) and phrases[0] == " ".join(text.split())


def _split_article(noun_phrase: str) -> tuple[str, str]:
    """Splits a noun phrase into its article, "" for none, and the rest."""
    first_word, _, rest = noun_phrase.partition(" ")
    if first_word.lower() in _ARTICLES:
        return first_word.lower(), rest.strip()
    return "", noun_phrase


def _can_keep_articles(*noun_phrases: tuple[str, str]) -> bool:
    """Tells whether each of two noun phrases, as (article, rest), can take the article of the other."""
    tag = get_tagger("rules")
    has_indefinite = any(article in ("a", "an") for article, _ in noun_phrases)
    for article, noun in noun_phrases:
        words = TOKEN.findall(noun)
        # "Two cats" and "people" take no "a".
        is_plural = not article or (words[-1].endswith("s") and not words[-1].endswith("ss"))
        # "His hat" takes no article at all.
        if tag(words).startswith("D") or (has_indefinite and is_plural):
            return False
    return True


def _with_article(article: str, noun: str) -> str:
    """Puts an article before a noun, "a" or "an" as its first letter asks."""
    if article in ("a", "an"):
        article = "an" if noun[0].lower() in "aeiou" else "a"
    return f"{article} {noun}".lstrip()
