"""Checks of single fields: texts, lists of texts and boxes.

Every check takes the name of the field as the source calls it. Where many fields are checked, ask `is_text` or `is_box`
first: formatting a name costs more than the check itself.
"""

import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from ..model.text_cleaning_beta_clip import is_blank


# Real annotations overshoot by rounding, so a box may reach over the edge of its image by this share of the side.
BOX_TOLERANCE = 0.01
# Larger values are mistakes, or attacks. A caption of 10,000 words has about 60,000 characters.
MOST_CHARACTERS = 1_000_000
MOST_ITEMS = 10_000
# Words of the message about a path that leads nowhere.
MISSING_FILE = "must be an existing file"
_ADDRESS = re.compile(r"\b(?:https?|ftp|s3|gs)://?\w")
# Longer values, and longer paths, are cut in error messages.
_LONGEST_SHOWN, _LONGEST_PATH = 80, 300


def is_list(value: Any) -> bool:
    """Tells whether a value is a list or a tuple."""
    return isinstance(value, (list, tuple))


def is_text(value: Any) -> bool:
    """Tells whether a value is a string that shows something, is Unicode, and is not too long."""
    return isinstance(value, str) and len(value) <= MOST_CHARACTERS and is_utf8(value) and not is_blank(value)


def is_utf8(text: str) -> bool:
    """Tells whether UTF-8 can hold a text: it has no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_box(value: Any) -> bool:
    """Tells whether a value is four finite numbers in order.

    A box without area passes, because real annotations have such boxes.
    """
    if not is_list(value) or len(value) != 4:
        return False
    x1, y1, x2, y2 = value
    try:
        return -inf < x1 <= x2 < inf and -inf < y1 <= y2 < inf
    except TypeError:  # not numbers
        return False


def is_inside(box: Sequence[float], width: float, height: float) -> bool:
    """Tells whether `[x1, y1, x2, y2]` lies in an image of that size, up to `BOX_TOLERANCE` of each side."""
    x1, y1, x2, y2 = box
    margin_x = BOX_TOLERANCE * width
    margin_y = BOX_TOLERANCE * height
    return x1 >= -margin_x and y1 >= -margin_y and x2 <= width + margin_x and y2 <= height + margin_y


def check_text(value: Any, field: str) -> None:
    """Raises `ValueError` if the value is not a text."""
    if is_text(value):
        return
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise ValueError(f"{field} must have at most {MOST_CHARACTERS:,} characters, but has {len(value):,}")
    if isinstance(value, str) and not is_utf8(value):
        raise ValueError(f"{field} must be Unicode, but has half of a surrogate pair: {shown(value)}")
    if is_blank_text(value) and value.strip():
        raise ValueError(f"{field} must be a text that is not empty, but is {shown(value)}")
    is_renamed_captions = field == "caption" and is_list(value)
    hint = ""
    if is_renamed_captions:
        hint = '; rename it with columns={"caption": "captions"}'
    raise ValueError(f"{field} must be a string that is not empty, but is {shown(value)}{hint}")


def check_texts(value: Any, field: str) -> None:
    """Raises `ValueError` if the value is not a list of texts. The message names the first wrong item."""
    texts = items(value, field)
    if all(map(is_text, texts)):
        return
    for index, text in enumerate(texts):
        # A text of invisible characters is refused when it is cleaned, if it is drawn at all.
        if not (is_blank_text(text) and text.strip()):
            check_text(text, f"{field}[{index}]")


def check_list_of_texts(value: Any, field: str) -> None:
    """Raises `ValueError` if the value is no list of strings, or none of them is a text. Blank ones are passed over."""
    texts = items(value, field)
    for index, text in enumerate(texts):
        if not (is_text(text) or is_blank_text(text)):
            check_text(text, f"{field}[{index}]")
    if texts and not any(map(is_text, texts)):
        raise ValueError(f"{field} must have a text that is not empty, but is {shown(value)}")


def missing_file_error(path: str | Path, field: str = "image") -> ValueError:
    """Returns the error that says that the file of an image does not exist."""
    shown_path = repr(str(path)[:_LONGEST_PATH])
    if _ADDRESS.search(str(path)):
        return ValueError(
            f"{field} must be a file here, but is an address, {shown_path}: download the images first, for example "
            "with img2dataset"
        )
    return ValueError(f"{field} {MISSING_FILE}, but is {shown_path}")


def is_blank_text(value: Any) -> bool:
    """Tells whether a value is a string that shows nothing."""
    return isinstance(value, str) and len(value) <= MOST_CHARACTERS and is_blank(value)


def check_box(value: Any, field: str) -> None:
    """Raises `ValueError` if the value is not a box."""
    if not is_box(value):
        raise ValueError(f"{field} must be [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, but is {shown(value)}")


def outside(field: str, box: Any, width: float, height: float) -> str:
    """Formats the message about a box that lies outside of its image.

    Args:
        field: Name of the box.
        box: The box as the source has it.
        width, height: Sides of the image in units of the box. Two sides of 1 mean that boxes are shares of the sides.
    """
    image = f"image of {width} × {height} pixels"
    if width == height == 1:
        image = "image, between 0 and 1"
    return f"{field} must lie in the {image}, but is {shown(box)}"


def items(value: Any, field: str) -> Sequence[Any]:
    """Returns the list that a field holds.

    Raises:
        ValueError: if the value is not a list.
    """
    if not is_list(value):
        raise ValueError(f"{field} must be a list, but is {shown(value)}")
    if len(value) > MOST_ITEMS:
        raise ValueError(f"{field} must have at most {MOST_ITEMS:,} items, but has {len(value):,}")
    return value


def bytes_or_path(image: Any) -> Any:
    """Returns what an image of `datasets`, `{"bytes": …, "path": …}`, holds: its bytes, or else its path.

    Any other image is returned as it is.
    """
    if isinstance(image, Mapping):
        return image.get("bytes") or image.get("path")
    return image


def shown(value: Any) -> str:
    """Formats a value for an error message, cut to 80 characters. `None` is shown as "missing".

    >>> shown(None), shown("a cat")
    ('missing', "'a cat'")
    """
    if value is None:
        return "missing"
    if isinstance(value, (str, bytes, list, tuple)):
        # Formatting all of a huge value would cost as much again.
        value = value[:_LONGEST_SHOWN]
    try:
        text = repr(value)
    except Exception:
        # Nested too deeply, for example.
        text = f"a {type(value).__name__}"
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[: _LONGEST_SHOWN - 3]}..."
