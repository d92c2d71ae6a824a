"""Griffe extension of the documentation site: adapts docstrings, which are also read in the code, to the site."""

import re
from typing import Any

import griffe


# "    boxes (`Tensor` of shape `(R, 4)`, *optional*):"
ARGUMENT = re.compile(r"^ +\w[\w, ]* \(.*`.*\):", flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Fences each doctest, because a line that begins with `>>>` is a quotation in Markdown, and cleans types."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = plain_types(fence_doctests(obj.docstring.value))


def plain_types(text: str) -> str:
    """
    Turns the types of arguments, as the transformers library writes them, into plain types.

    "(`Tensor` of shape `(R, 4)`, *optional*):" becomes "(Tensor of shape (R, 4), optional):". A default stands in the
    signature, or is said in the description of the class.
    """

    def plain(found: re.Match[str]) -> str:
        return found[0].replace("`", "").replace("*", "")

    return ARGUMENT.sub(plain, text)


def fence_doctests(text: str) -> str:
    """Puts a fence around each doctest that has none."""
    lines: list[str] = []
    is_fenced, is_open = False, False
    for line in text.splitlines():
        if line.strip().startswith("```"):
            is_fenced = not is_fenced
        starts = line.startswith(">>>") and not is_fenced and not is_open
        ends = is_open and not line.strip()
        if starts:
            lines.append("```pycon")
            is_open = True
        if ends:
            lines.append("```")
            is_open = False
        lines.append(line)
    if is_open:
        lines.append("```")
    return "\n".join(lines)
