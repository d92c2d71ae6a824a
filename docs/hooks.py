"""Hooks of the documentation site: they adapt pages, which are also read on their own, to the site."""

import re
from typing import Any


# [text](../examples/demo.py): a file of the repository that is not part of the site.
REPOSITORY_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./(?!\.\.)([^)#\s]+)[^)]*\)")
# [`BetaCLIPModel`] or [`~transformers.CLIPModel`]: how docstrings of the transformers library name a class.
DOCSTRING_NAME = re.compile(r"\[<code>~?([\w.]+)</code>\]")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links to files outside of the site into their names: the site does not have these files."""
    return REPOSITORY_LINK.sub(lambda link: f"{link[1]} (`{link[2]}` in the repository)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Shows names that docstrings put in brackets as code."""
    return DOCSTRING_NAME.sub(lambda name: f"<code>{name[1]}</code>", html)
