"""Sentences of a caption, by rules: any script, no data, no dependency."""

import re
import unicodedata

from . import lexicon


# Full stops of scripts that use them for nothing else. No space need follow them.
_ALWAYS = "。！？｡।॥؟۔։።፧፨៕။།᠃"  # noqa: RUF001
# Quotes and brackets that may follow the mark at the end of a sentence.
CLOSERS = "\"'”’»)]）】」』》"  # noqa: RUF001
_CLOSER = f"[{re.escape(CLOSERS)}]"
# The pattern starts with one set of characters, so that the search skips all other text quickly. What may follow
# depends on the character, which each alternative looks back at.
_CANDIDATE = re.compile(
    rf"[{_ALWAYS}.!?…\n](?:"
    rf"(?<=[{_ALWAYS}])[{_ALWAYS}]*{_CLOSER}*"
    # "The end. Another", "end.Another", "end. 一只狗"
    rf"|(?<=[.!?…])(?<![.!?…]{{2}})[.!?…]*+{_CLOSER}*+(?=\s|$|[A-Z]|[^\x00-\u024f])"
    # An empty line.
    r"|(?<=\n)[^\S\n]*\n\s*"
    # An item of a list.
    r"|(?<=\n)(?=\s*(?:[-*•▪–]|\d{1,3}[.)])\s))"
)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]+$")  # noqa: RUF001
_NEXT_WORD = re.compile(r"[\s\"'“‘«(\[]*([^\W_]+(?:['’][^\W_]+)*)")  # noqa: RUF001
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
# How many characters the word before a full stop may have. Longer words are no abbreviations, and the bound keeps the
# time linear.
_LOOK_BACK = 40


def split_sentences(text: str) -> list[str]:
    """Splits a caption into its sentences, in order, stripped and with white space collapsed.

    A full stop ends no sentence after a title or an abbreviation ("Mr.", "e.g."), after an initial ("J. Smith"), after
    the number of a list item and inside a number ("3.5"). Full stops of other scripts, empty lines and list items
    always end one. No character is lost: without white space, the joined sentences are the text. A text without a word
    ("!!!") is one sentence, and a blank text has none. The time is linear in the length of the text.

    Raises:
        ValueError: If `text` is not a string.

    >>> split_sentences("Mr. Fox sits on a 2.5 m wall. It's raining... The wall is wet!")
    ['Mr. Fox sits on a 2.5 m wall.', "It's raining...", 'The wall is wet!']
    >>> split_sentences("一只黑狗在草地上奔跑。旁边有一个孩子。")
    ['一只黑狗在草地上奔跑。', '旁边有一个孩子。']
    """
    if not isinstance(text, str):
        raise ValueError(f"text must be a string, but is {text!r}")
    pieces = []
    start = 0
    for match in _CANDIDATE.finditer(text):
        if _closes_sentence(text, start, match):
            pieces.append(_collapsed(text[start : match.end()]))
            start = match.end()
    pieces.append(_collapsed(text[start:]))
    return _join_wordless(pieces)


def _closes_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Tells whether a mark ends the sentence that begins at `start`."""
    mark = match[0]
    if mark[0] in _ALWAYS or mark[0] == "\n":
        return True
    word = _word_before(text, start, match.start())
    next_word = _word_after(text, match.end())
    if _is_glued(text, match.end()):
        return mark == "." and _are_glued_sentences(word, next_word)
    if next_word[:1].islower():
        return _closes_before_lower_case(mark, word)
    if mark != ".":
        return True
    if word.lower() in lexicon.ABBREVIATIONS or _INITIALS.fullmatch(word):
        return _opens_sentence(next_word)
    # "1. A dog": the number of a list item.
    is_first_word = not text[start : match.start() - len(word)].strip()
    if word.isdigit() and is_first_word:
        return False
    return word.lower() not in lexicon.TITLES


def _word_before(text: str, start: int, end: int) -> str:
    """Returns the word that ends at `end` and begins after `start`, or ""."""
    match = _LAST_WORD.search(text, max(start, end - _LOOK_BACK), end)
    return match[0] if match else ""


def _word_after(text: str, position: int) -> str:
    """Returns the first word after a position, without brackets and quotation marks, or ""."""
    match = _NEXT_WORD.match(text, position)
    return match[1] if match else ""


def _is_glued(text: str, position: int) -> bool:
    """Tells whether a Latin character follows at once. Many other scripts put no space between sentences."""
    return position < len(text) and not text[position].isspace() and text[position] < lexicon.FIRST_LETTER_AFTER_LATIN


def _are_glued_sentences(word: str, next_word: str) -> bool:
    """Tells whether a full stop without a space separates sentences.

    It does in "grass.The dog", and it does not in "U.S.A", "README.MD" and "J.Smith".
    """
    return len(word) > 2 and word.isalpha() and word.islower() and next_word.istitle()


def _closes_before_lower_case(mark: str, word: str) -> bool:
    """Tells whether a mark ends a sentence before a small letter: "a dog runs. a cat sits"."""
    # 'Asks "why?" and leaves', "one ... two".
    if mark[-1] in CLOSERS or mark.startswith(("..", "…")):
        return False
    return mark != "." or not _is_abbreviation(word)


def _is_abbreviation(word: str) -> bool:
    """Tells whether a full stop belongs to the word before it: "Mr", "p.m", "J"."""
    if word.lower() in lexicon.TITLES or word.lower() in lexicon.ABBREVIATIONS:
        return True
    is_initial = len(word) == 1 and word.isalpha()
    return is_initial or "." in word


def _opens_sentence(word: str) -> bool:
    """Tells whether a word is likely to open a sentence, here after an abbreviation: "at 5 p.m. The sky"."""
    # After an abbreviation, "I" is a name or a number more often: "J. I. Case", "St. I".
    return word.lower() in lexicon.OPENERS and word != "I" and word[:1].isupper()


def _join_wordless(pieces: list[str]) -> list[str]:
    """Joins pieces without a word to the sentence before them, or to the first sentence."""
    sentences: list[str] = []
    opening = ""
    for piece in filter(None, pieces):
        if not _is_wordless(piece):
            sentences.append(f"{opening} {piece}".strip())
            opening = ""
        elif sentences:
            sentences[-1] += f" {piece}"
        else:
            opening = f"{opening} {piece}".strip()
    if not sentences and opening:
        return [opening]
    return sentences


def _is_wordless(piece: str) -> bool:
    """Tells whether a piece holds nothing but punctuation, white space and control characters."""
    return all(unicodedata.category(character)[0] in "PZC" for character in piece)


def _collapsed(text: str) -> str:
    """Returns a text with each stretch of white space replaced by one space, and none at its ends."""
    return " ".join(text.split())
