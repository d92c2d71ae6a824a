"""Captions in a text file of their own: one caption, or several, one per line."""

import codecs
from typing import Any


_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def captions_of_text(text: bytes, name: str) -> dict[str, Any]:
    """Reads the captions of a text file.

    Args:
        text: Content of the file, in UTF-8, or in UTF-16 with a byte order mark.
        name: Name of the file in messages.

    Returns:
        `{"caption": …}`, or `{"captions": […]}` if several lines hold something.

    Raises:
        ValueError: if the file has another encoding, or is empty.

    >>> captions_of_text(b"A dog runs.", "0.txt"), captions_of_text(b"A dog runs.\\nA brown dog.", "0.txt")
    ({'caption': 'A dog runs.'}, {'captions': ['A dog runs.', 'A brown dog.']})
    """
    try:
        # Editors write a byte order mark, which is no part of the caption. That of Windows also writes UTF-16.
        decoded = text.decode("utf-16" if text.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be text in utf-8, but is not: {error}") from error
    lines = [line.strip() for line in decoded.splitlines()]
    captions = [line for line in lines if line]
    if not captions:
        raise ValueError(f"caption must be a string that is not empty, but {name} is blank")
    if len(captions) == 1:
        return {"caption": captions[0]}
    return {"captions": captions}


__all__ = ["captions_of_text"]
