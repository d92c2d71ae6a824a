"""Sentences of a caption, by rules: any script, no data, no dependency."""

import re
import unicodedata

from . import lexicon


# Full stops of scripts that use them for nothing else; no space need follow.
_ALWAYS = "。！？｡।॥؟۔։።፧፨។៕။།᠃"  # noqa: RUF001
_CLOSERS = r"\"'”’»)\]）】」』》"  # noqa: RUF001
# One set of characters comes first: the search skips everything else quickly. What follows depends on which one it was.
_CANDIDATE = re.compile(
    rf"[{_ALWAYS}.!?…\n](?:"
    rf"(?<=[{_ALWAYS}])[{_ALWAYS}]*[{_CLOSERS}]*"
    rf"|(?<=[.!?…])(?<![.!?…]{{2}})[.!?…]*+[{_CLOSERS}]*+(?=\s|$|[A-Z]|[^\x00-\u024f])"  # "end.Another", "end. 一只狗"
    r"|(?<=\n)[^\S\n]*\n\s*"  # an empty line
    r"|(?<=\n)(?=\s*(?:[-*•▪–]|\d{1,3}[.)])\s))"  # a list item
)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]+$")  # noqa: RUF001
_NEXT_WORD = re.compile(r"[\s\"'“‘«(\[]*([^\W_]+(?:['’][^\W_]+)*)")  # noqa: RUF001
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
_LOOK_BACK = 40  # characters; longer words are not abbreviations


def split_sentences(text: str) -> list[str]:
    """Split a caption into its sentences, in order, stripped, white space collapsed.

    A full stop closes no sentence after titles and abbreviations ("Mr.", "e.g."), initials ("J. Smith"), list numbers
    or inside numbers ("3.5"). Full stops of other scripts, empty lines and list items do. Nothing is lost: without
    white space, the sentences joined are the text. A text without a word ("!!!") is one sentence, a blank text has
    none. Linear in the length of the text.

    Raises:
        ValueError: `text` is not a string.

    >>> split_sentences("Mr. Fox sits on a 2.5 m wall. It's raining... The wall is wet!")
    ['Mr. Fox sits on a 2.5 m wall.', "It's raining...", 'The wall is wet!']
    >>> split_sentences("一只黑狗在草地上奔跑。旁边有一个孩子。")
    ['一只黑狗在草地上奔跑。', '旁边有一个孩子。']
    """
    if not isinstance(text, str):
        raise ValueError(f"text must be a string, but is {text!r}")
    pieces, start = [], 0
    for match in _CANDIDATE.finditer(text):
        if _closes_sentence(text, start, match):
            pieces.append(" ".join(text[start : match.end()].split()))
            start = match.end()
    pieces.append(" ".join(text[start:].split()))
    return _join_wordless(pieces)


def _closes_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    mark = match[0]
    if mark[0] in _ALWAYS or mark[0] == "\n":
        return True
    before = _LAST_WORD.search(text, max(start, match.start() - _LOOK_BACK), match.start())
    word = before[0] if before else ""
    following = _NEXT_WORD.match(text, match.end())
    next_word = following[1] if following else ""
    if match.end() < len(text) and not text[match.end()].isspace() and text[match.end()] < "ɐ":
        # No space: "grass.The dog" is two sentences, "U.S.A", "README.MD" and "J.Smith" are not.
        return mark == "." and len(word) > 2 and word.isalpha() and word.islower() and next_word.istitle()
    if next_word[:1].islower():
        if mark[-1] in _CLOSERS or mark.startswith(("..", "…")):
            return False  # 'asks "why?" and leaves', "one ... two"
        return mark != "." or not _is_abbreviation(word)
    if mark != ".":
        return True
    if word.lower() in lexicon.ABBREVIATIONS or _INITIALS.fullmatch(word):
        return next_word.lower() in lexicon.OPENERS and next_word != "I" and next_word[:1].isupper()
    if word.isdigit() and not text[start : match.start() - len(word)].strip():
        return False  # "1. A dog"
    return word.lower() not in lexicon.TITLES


def _is_abbreviation(word: str) -> bool:
    return (
        word.lower() in lexicon.TITLES
        or word.lower() in lexicon.ABBREVIATIONS
        or (len(word) == 1 and word.isalpha())
        or "." in word
    )


def _join_wordless(pieces: list[str]) -> list[str]:
    """Hang pieces of punctuation alone onto the sentence before them, or onto the first one."""
    sentences: list[str] = []
    opening = ""
    for piece in filter(None, pieces):
        if all(unicodedata.category(character)[0] in "PZC" for character in piece):
            if sentences:
                sentences[-1] += f" {piece}"
            else:
                opening = f"{opening} {piece}".strip()
        else:
            sentences.append(f"{opening} {piece}".strip())
            opening = ""
    return sentences or ([opening] if opening else [])
