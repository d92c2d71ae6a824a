# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where texts are cleaned, for training and for inference alike."""

import html
import re
import unicodedata
import warnings
from typing import Any


# What CLIP's tokenizer would read as its special tokens. A text with the second one in it would be read up to there.
_SPECIAL_TOKENS = re.compile(r"<\|(?:startoftext|endoftext)\|>", re.IGNORECASE)
# Most texts have a letter or a number, which is found at once. Escapes and markers have letters that say nothing.
_LETTER = re.compile(r"\w")
_NO_ESCAPES = re.compile(r"[^&<]*")
# White space, control and format characters (zero width), marks without a letter, halves of surrogate pairs.
_BLANK_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Mn", "Me", "Zs", "Zl", "Zp"})
# Letters and symbols of Unicode that are drawn as nothing: Hangul fillers, the blank of Braille.
_BLANK_LETTERS = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"))
# ftfy changes nothing in printable ASCII with these.
_PLAIN_WHITE_SPACE = str.maketrans("", "", "\n\t")


class CleanText(str):
    """A text that [`clean_text`] has cleaned. It is a plain string that is not cleaned a second time."""

    __slots__ = ()


def clean_text(text: str) -> CleanText:
    """
    Cleans a text as OpenAI's CLIP does: ftfy (curly quotes, mojibake), HTML entities twice, outer white space.

    CLIP's special tokens, written out in a text, become a space: a text cannot end itself, or begin a second time.
    White space inside the text and the case of its letters are left to the tokenizer. A text that was cleaned before
    is returned as it is. Without ftfy a text that needs it is not mended, and a warning says so.

    >>> clean_text(" a man &amp;amp; his dog ")
    'a man & his dog'
    """
    if isinstance(text, CleanText):
        return text
    return CleanText(_clean(text))


def _clean(text: str) -> str:
    # ftfy leaves printable ASCII as it is, and costs more than tokenising.
    if not (text.isascii() and text.translate(_PLAIN_WHITE_SPACE).isprintable()):
        text = _mended(text)
    # Captions from the web are often escaped twice.
    text = html.unescape(html.unescape(text))
    # After the entities, which may spell a special token. A space, as the rest must not become another one.
    return _SPECIAL_TOKENS.sub(" ", text).strip()


def _mended(text: str) -> str:
    """Mends a text with ftfy, if it is installed."""
    try:
        import ftfy
    except ImportError:
        warnings.warn(
            "ftfy is not installed, so texts that are not plain ASCII are tokenised as they are, without mending curly "
            "quotes and mojibake as in training: pip install ftfy",
            stacklevel=2,
        )
        return text
    return ftfy.fix_text(text)


def is_blank(text: str) -> bool:
    """
    Tells whether a text shows nothing: white space, zero-width and control characters, escapes or markers of these.

    >>> is_blank("\\u200b&nbsp; <|endoftext|>"), is_blank("a"), is_blank("?!")
    (True, False, False)
    """
    if _NO_ESCAPES.fullmatch(text) is None:
        text = _SPECIAL_TOKENS.sub(" ", html.unescape(html.unescape(text)))
    text = text if text.isascii() else text.translate(_BLANK_LETTERS)
    if _LETTER.search(text) is not None:
        return False
    return all(unicodedata.category(character) in _BLANK_CATEGORIES for character in text)


def clean_checked_text(text: Any, name: str) -> CleanText:
    """
    Cleans a text that must not be empty.

    Args:
        text: What a user passed for it.
        name: What the error message calls it, for example "regions[0][1].text".

    Raises:
        ValueError: if it is no string, or nothing is left of it after cleaning.
    """
    cleaned = clean_text(text) if isinstance(text, str) else None
    if cleaned is None or is_blank(cleaned):
        raise ValueError(f"{name} must be a text that is not empty, but is {text!r}")
    return cleaned


__all__ = ["CleanText", "clean_checked_text", "clean_text", "is_blank"]
