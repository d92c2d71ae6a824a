"""The one place where texts are cleaned, for training and for inference alike."""

import html
from typing import Any


class CleanText(str):
    """A text that [`clean_text`] has cleaned. It is a plain string that is not cleaned a second time."""

    __slots__ = ()


def clean_text(text: str) -> CleanText:
    """
    Cleans a text as OpenAI's CLIP does: ftfy (curly quotes, mojibake), HTML entities twice, outer white space.

    White space inside the text and the case of its letters are left to the tokenizer. A text that was cleaned before
    is returned as it is.

    Raises:
        ImportError: if the text is not ASCII and ftfy is not installed.

    >>> clean_text(" a man &amp;amp; his dog ")
    'a man & his dog'
    """
    if isinstance(text, CleanText):
        return text
    return CleanText(_clean(text))


def _clean(text: str) -> str:
    # ftfy leaves printable ASCII as it is, and costs more than tokenising.
    if not (text.isascii() and text.isprintable()):
        try:
            import ftfy
        except ImportError as error:
            raise ImportError("Cleaning a text that is not plain ASCII needs ftfy: pip install ftfy") from error
        text = ftfy.fix_text(text)
    # Captions from the web are often escaped twice.
    return html.unescape(html.unescape(text)).strip()


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
    if not cleaned:
        raise ValueError(f"{name} must be a text that is not empty, but is {text!r}")
    return cleaned


__all__ = ["CleanText", "clean_checked_text", "clean_text"]
