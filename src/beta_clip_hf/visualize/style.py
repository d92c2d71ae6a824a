"""What all figures share: colours, fonts, boxes on images, and a figure without pyplot. matplotlib is loaded when it is
needed."""

import logging
import os
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

from PIL import Image


logger = logging.getLogger(__name__)

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":")  # beside the colours: a grey print tells curves apart too
INK, FAINT, GRID = "#222222", "#777777", "#E6E6E6"
# For phrases that the default font cannot write; used where they are installed. Of a file of several fonts matplotlib
# knows the first: that of Noto Sans CJK is the Japanese one, which has the Chinese and Korean letters too.
FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic"),
    *("PingFang SC", "Hiragino Sans", "Noto Emoji", "Segoe UI Emoji"),
)
_MISSING = re.compile(r"Glyph (\d+) .*missing from")  # how matplotlib tells of a letter
TITLE_WIDTH, TITLE_LINES = 26, 3
MOST_LETTERS = 20  # that a warning names


def wrapped(phrase: str) -> str:
    """A title of few lines, whatever the text holds; never empty."""
    printable = "".join(letter if letter.isprintable() else " " for letter in phrase)
    return "\n".join(textwrap.wrap(printable, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" …")) or " "


def font_families() -> list[str]:
    """The default font, and those installed that know scripts which it does not."""
    from matplotlib.font_manager import get_font_names

    return ["DejaVu Sans", *sorted(set(FALLBACK_FONTS) & set(get_font_names()), key=FALLBACK_FONTS.index)]


def draw_box(
    axes: Any, image: Image.Image, box: list[float], colour: str, around: str, linewidth: float
) -> tuple[float, float]:
    """A frame, itself framed so that it shows on any picture; returns its upper left corner in pixels."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    x1, y1, x2, y2 = box
    corner = (x1 * image.width - 0.5, y1 * image.height - 0.5)
    size = ((x2 - x1) * image.width, (y2 - y1) * image.height)
    rectangle = Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=linewidth)
    rectangle.set_path_effects([Stroke(linewidth=2 * linewidth, foreground=around), Normal()])
    axes.add_patch(rectangle)
    return corner


def new_figure(width: float, height: float) -> Any:
    """
    A matplotlib figure of a size in inches.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "beta-clip-hf[eval]"') from error
    # No pyplot: that would choose a backend for the whole process, and keep every figure.
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08)  # inches
    figure = Figure(figsize=(width, height), layout=layout, dpi=150)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes the figure; the directory is made. Returns the path. Letters that no font here has are drawn as boxes, and
    the log says so."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(path, facecolor="white")
    missing = set()
    for warning in told:
        if letter := _MISSING.match(str(warning.message)):
            missing.add(chr(int(letter[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        letters = "".join(sorted(missing)[:MOST_LETTERS])
        logger.warning(
            "no installed font can draw %s, which are boxes in a PNG: install one such as Noto Sans CJK or Noto Emoji, "
            "or have texts on a .html page",
            letters + (" …" if len(missing) > MOST_LETTERS else ""),
        )
    return path
