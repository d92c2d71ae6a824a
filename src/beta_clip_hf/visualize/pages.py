"""Self-contained HTML pages of pictures and texts: one file without scripts that opens anywhere, without a network."""

import base64
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from ..files import write_text


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --mark: #0072B2; --faint: #777; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }}
.summary, .note {{ color: var(--faint); }}
section {{ border-top: 1px solid var(--line); padding: 1rem 0; }}
section > p {{ margin: 0 0 .7rem; max-width: 60rem; }}
.row {{ display: flex; flex-wrap: wrap; gap: .8rem; }}
figure {{ margin: 0; width: {width}px; }}
figure img {{ width: 100%; border-radius: 4px; display: block; outline: 3px solid transparent; }}
figure.marked img {{ outline-color: var(--mark); }}
figure.marked figcaption {{ font-weight: 600; }}
figure.wide {{ width: 100%; }}
figcaption {{ font-size: .85rem; overflow-wrap: anywhere; padding-top: .3rem; white-space: pre-line; }}
</style>
<h1>{title}</h1>
<p class="summary">{summary}</p>
{sections}
</html>
"""


WIDE = 2000  # pixels at most of a wide picture


@dataclass(frozen=True)
class Picture:
    """A picture and what stands below it."""

    image: Image.Image
    caption: str = ""
    is_marked: bool = False
    """Whether it has a frame, and its caption is bold: the one that is meant."""
    is_wide: bool = False
    """Whether it takes the whole width of the page: a figure with text in it."""


@dataclass(frozen=True)
class Section:
    """A text above a row of pictures."""

    text: str
    pictures: Sequence[Picture] = field(default=())
    note: str = ""


def write_page(
    path: str | os.PathLike[str], title: str, sections: Iterable[Section], *, summary: str = "", width: int = 220
) -> Path:
    """
    Writes a page; its directory is made, and never holds half of one.

    Args:
        path: Where it goes.
        title, summary: Its head. All texts are shown as they are: what looks like HTML in them is not.
        sections: One below the other.
        width: Of each picture in pixels; pictures are stored at twice that at most, as JPEG.

    Returns:
        `path`.
    """
    body = "\n".join(_section(section, width) for section in sections)
    page = _PAGE.format(title=escape(title), summary=escape(summary), sections=body, width=width)
    return write_text(path, page)


def data_uri(image: Image.Image, longest_side: int = 440) -> str:
    """The image as a JPEG inside a link, scaled down to a longest side in pixels where it is larger."""
    image = image.convert("RGB")
    image.thumbnail((longest_side, longest_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _section(section: Section, width: int) -> str:
    pictures = "\n".join(_figure(picture, width) for picture in section.pictures)
    note = f'<p class="note">{escape(section.note)}</p>\n' if section.note else ""
    text = f"<p>{escape(section.text)}</p>\n" if section.text else ""
    return f'<section>\n{text}{note}<div class="row">\n{pictures}\n</div>\n</section>'


def _figure(picture: Picture, width: int) -> str:
    kinds = " ".join(name for name, has in (("marked", picture.is_marked), ("wide", picture.is_wide)) if has)
    opening = f'<figure class="{kinds}">' if kinds else "<figure>"
    uri = data_uri(picture.image, WIDE if picture.is_wide else 2 * width)
    caption = escape(picture.caption)
    return f'{opening}<img src="{uri}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
