"""What a text, a list of texts and a box must be. Every check takes the name of the field in the source's own words.

Where many fields are checked, ask `is_text` or `is_box` first: to format a name costs more than the check.
"""

from collections.abc import Iterable
from math import inf
from typing import Any


# How far a box may reach over the edge of its image, as a share of that side: real annotations overshoot by rounding.
BOX_TOLERANCE = 0.01


def is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def is_text(value: Any) -> bool:
    return isinstance(value, str) and not value.isspace() and value != ""


def is_box(value: Any) -> bool:
    """Four finite numbers in order. A box without area passes: real annotations have them."""
    if not is_list(value) or len(value) != 4:
        return False
    x1, y1, x2, y2 = value
    try:
        return -inf < x1 <= x2 < inf and -inf < y1 <= y2 < inf
    except TypeError:  # no numbers
        return False


def is_inside(box: Any, width: float, height: float) -> bool:
    """Whether `[x1, y1, x2, y2]` lies in an image of that size, but for 1 % of each side (`BOX_TOLERANCE`)."""
    x1, y1, x2, y2 = box
    over_x, over_y = BOX_TOLERANCE * width, BOX_TOLERANCE * height
    return x1 >= -over_x and y1 >= -over_y and x2 <= width + over_x and y2 <= height + over_y


def check_text(value: Any, field: str) -> None:
    if not is_text(value):
        hint = '; rename it with columns={"caption": "captions"}' if field == "caption" and is_list(value) else ""
        raise ValueError(f"{field} must be a string that is not empty, but is {shown(value)}{hint}")


def check_texts(value: Any, field: str) -> None:
    if not all(map(is_text, items(value, field))):
        for index, text in enumerate(value):
            check_text(text, f"{field}[{index}]")


def check_box(value: Any, field: str) -> None:
    if not is_box(value):
        raise ValueError(f"{field} must be [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, but is {shown(value)}")


def outside(field: str, box: Any, width: float, height: float) -> str:
    """What is wrong with a box that lies outside; a side of 1 means that boxes are shares of the sides."""
    image = "image, between 0 and 1" if width == height == 1 else f"image of {width} × {height} pixels"
    return f"{field} must lie in the {image}, but is {shown(box)}"


def items(value: Any, field: str) -> Iterable[Any]:
    """The list itself; a `ValueError` where it is none."""
    if not is_list(value):
        raise ValueError(f"{field} must be a list, but is {shown(value)}")
    return value


def shown(value: Any) -> str:
    """The value for a message: cut to 80 letters; `None` is "missing"."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
