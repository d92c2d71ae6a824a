"""
Self-contained HTML pages of pictures and texts.

A page is one file without scripts. It opens in any browser, and needs no network.
"""

import base64
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from ..data.images import thumbnail
from ..files import write_text
from .heat_maps import scale_image, scale_label


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --mark: #0072B2; --faint: light-dark(#666, #aaa); }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; }}
.summary, .note {{ color: var(--faint); }}
section {{ border-top: 1px solid var(--line); padding: 1rem 0; }}
section > p {{ margin: 0 0 .7rem; max-width: 60rem; }}
.row {{ display: flex; flex-wrap: wrap; gap: .8rem; }}
.row > figure {{ margin: 0; width: {width}px; max-width: 100%; }}
figure img {{ width: 100%; border-radius: 4px; display: block; outline: 3px solid transparent; }}
.row > figure:not(.wide) img {{ max-height: 30rem; object-fit: contain; }}
figure.marked img {{ outline-color: var(--mark); }}
figure.marked figcaption {{ font-weight: 600; }}
.row > figure.wide {{ width: 100%; }}
a {{ color: inherit; }}
a:focus-visible {{ outline: 3px solid var(--mark); outline-offset: 2px; border-radius: 4px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }}
.cards section {{ border: 1px solid var(--line); border-radius: 8px; padding: .8rem; min-width: 0; }}
.cards .row > figure {{ flex: 0 1 calc(50% - .4rem); width: auto; }}
.cards .row > figure:first-child {{ flex-basis: 100%; }}
@media (max-width: 30rem) {{ body {{ margin: 1rem auto; }} }}
figcaption {{ font-size: .85rem; padding-top: .3rem; white-space: pre-line; }}
</style>
<h1>{title}</h1>
<p class="summary">{summary}</p>
{sections}
</html>
"""

WIDE_SIDE = 2000
"""Largest side in pixels of a picture that takes the whole width of the page."""
STORED_PER_SHOWN = 2
"""Stored pixels per shown pixel of other pictures, for screens with small pixels."""


@dataclass(frozen=True)
class Picture:
    """A picture with the text below it."""

    image: Image.Image
    caption: str = ""
    is_marked: bool = False
    """Whether the picture is emphasised by a frame and a bold caption."""
    is_wide: bool = False
    """Whether the picture takes the whole width of the page, as a figure with text in it needs."""
    alt: str | None = None
    """Text for readers who do not see the picture; by default the caption."""
    link: str | None = None
    """Address that a click on the picture leads to, for example that of the image file."""


def scale_picture(highest: float) -> Picture:
    """Shows the colour scale of heat maps. Its ends are named below it, and not on it: a page may be light or dark."""
    return Picture(scale_image(440, 20), scale_label(highest), alt="Colour scale: grey to dark blue to yellow")


@dataclass(frozen=True)
class Section:
    """A text above a row of pictures."""

    text: str
    pictures: Sequence[Picture] = field(default=())
    note: str = ""
    """Small text between the two."""
    is_card: bool = False
    """Whether the section is a card: cards stand side by side, as many as the screen has room for."""


def write_page(
    path: str | os.PathLike[str], title: str, sections: Iterable[Section], *, summary: str = "", width: int = 220
) -> Path:
    """
    Writes a page. Every text is shown as it is: HTML in a text is not interpreted.

    Args:
        path: HTML file to write; its directory is created if it is missing.
        title: Heading of the page.
        sections: Sections of the page, from top to bottom.
        summary: Text below the heading.
        width: Shown width of each picture in pixels. Pictures are stored at twice that width at most, as JPEG.

    Returns:
        `path`.
    """
    parts = []
    for is_card, group in groupby(sections, key=lambda section: section.is_card):
        html = "\n".join(_section_html(section, width) for section in group)
        parts.append(f'<div class="cards">\n{html}\n</div>' if is_card else html)
    body = "\n".join(parts)
    page = _PAGE.format(title=escape(title), summary=escape(summary), sections=body, width=width)
    return write_text(path, page)


def jpeg_uri(image: Image.Image, longest_side: int = 440) -> str:
    """Encodes an image as a JPEG inside a link; an image with a longer side in pixels is scaled down."""
    if image.mode != "RGB":
        # JPEG has nothing else.
        image = image.convert("RGB")
    return _data_uri(thumbnail(image, longest_side), "JPEG", quality=85)


def png_uri(image: Image.Image) -> str:
    """Encodes an image as a PNG inside a link, pixel for pixel."""
    return _data_uri(image, "PNG")


def _data_uri(image: Image.Image, image_format: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure_html(
    uri: str, caption: str, *, alt: str | None = None, classes: Sequence[str] = (), link: str | None = None
) -> str:
    """
    Formats a picture with its caption as an HTML figure. Both texts are escaped.

    Args:
        uri: Address of the picture, as from [`jpeg_uri`] or [`png_uri`].
        caption: Text below the picture.
        alt: Text in place of the picture for readers who do not see it; by default the caption.
        classes: CSS classes of the figure.
        link: Address that a click on the picture leads to.

    >>> figure_html("a.png", "2 < 3", classes=["heat"])
    '<figure class="heat"><img src="a.png" alt="2 &lt; 3"><figcaption>2 &lt; 3</figcaption></figure>'
    """
    opening = "<figure>"
    if classes:
        opening = f'<figure class="{" ".join(classes)}">'
    alt_text = escape(caption if alt is None else alt)
    picture = f'<img src="{uri}" alt="{alt_text}">'
    if link is not None:
        picture = f'<a href="{escape(link)}">{picture}</a>'
    return f"{opening}{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _section_html(section: Section, width: int) -> str:
    text = ""
    if section.text:
        text = f"<p>{escape(section.text)}</p>\n"
    note = ""
    if section.note:
        note = f'<p class="note">{escape(section.note)}</p>\n'
    pictures = "\n".join(_picture_html(picture, width) for picture in section.pictures)
    row = f'<div class="row">\n{pictures}\n</div>\n'
    # The pictures of cards begin at one height: a note may be long.
    body = f"{text}{row}{note}" if section.is_card else f"{text}{note}{row}"
    return f"<section>\n{body}</section>"


def _picture_html(picture: Picture, width: int) -> str:
    classes = []
    if picture.is_marked:
        classes.append("marked")
    if picture.is_wide:
        classes.append("wide")
    longest_side = STORED_PER_SHOWN * width
    if picture.is_wide:
        longest_side = WIDE_SIDE
    uri = jpeg_uri(picture.image, longest_side)
    return figure_html(uri, picture.caption, alt=picture.alt, classes=classes, link=picture.link)
