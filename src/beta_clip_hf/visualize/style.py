"""What all figures share: colours, fonts, axes, boxes on images, saving. matplotlib is imported when it is needed."""

import logging
import os
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import replacing


logger = logging.getLogger(__name__)

# The colours of Okabe and Ito, which people with any kind of colour vision tell apart.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
# Dashes change together with the colours, so that a print in grey tells curves apart too.
DASHES = ("-", "--", "-.", ":")
INK, FAINT, GRID = "#222222", "#777777", "#E6E6E6"
# For letters that the default font does not have; a font is used where it is installed. Of a file with several fonts
# matplotlib knows only the first. That of Noto Sans CJK is Japanese, and has the Chinese and Korean letters too.
FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic"),
    *("PingFang SC", "Hiragino Sans", "Noto Emoji", "Segoe UI Emoji"),
)
TITLE_WIDTH, TITLE_LINES = 26, 3
MOST_LETTERS = 20
"""Largest number of letters that a warning about missing letters names."""
# matplotlib warns about a missing letter in a sentence that has its code point.
_MISSING_LETTER = re.compile(r"Glyph (\d+) .*missing from")


def require_matplotlib() -> None:
    """
    Checks that figures can be drawn, for callers that would notice only after long work.

    Raises:
        ImportError: if matplotlib is not installed; the message names the extra to install.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error


def new_figure(width: float, height: float, *, padding: tuple[float, float] = (0.06, 0.08)) -> Any:
    """
    Makes an empty matplotlib figure on a white canvas.

    Args:
        width: In inches.
        height: In inches.
        padding: Space between panels in inches, horizontal and vertical.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # pyplot would choose a backend for the whole process, and would keep every figure in memory.
    layout = ConstrainedLayoutEngine(w_pad=padding[0], h_pad=padding[1])
    figure = Figure(figsize=(width, height), layout=layout, dpi=150)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """
    Writes a figure as PNG whole or not at all, and returns its path. A missing directory is created.

    Letters that no installed font has are drawn as boxes, and the log names them once.
    """
    path = Path(path)
    with warnings.catch_warnings(record=True) as caught, replacing(path) as unfinished:
        warnings.simplefilter("always")
        # The suffix of the unfinished file names no format.
        figure.savefig(unfinished, format=path.suffix.removeprefix(".") or "png", facecolor="white")
    missing = set()
    for warning in caught:
        letter = _MISSING_LETTER.match(str(warning.message))
        if letter:
            missing.add(chr(int(letter[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        _warn_about_letters(sorted(missing))
    return path


def _warn_about_letters(missing: list[str]) -> None:
    """Names the letters that no installed font has, and what can be done."""
    letters = "".join(missing[:MOST_LETTERS])
    if len(missing) > MOST_LETTERS:
        letters += " …"
    logger.warning(
        "no installed font can draw %s, which are boxes in a PNG: install one such as Noto Sans CJK or Noto Emoji, or "
        "have texts on a .html page",
        letters,
    )


def line_style(index: int) -> dict[str, str]:
    """Returns the colour and the dashes of the curve with that index in a panel."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def set_panel_title(axes: Any, title: str) -> None:
    """Writes the title of a panel of curves at its upper left corner."""
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")


def tidy_axes(axes: Any) -> None:
    """Gives a panel of curves a light grid, and no frame but the line at its foot."""
    axes.tick_params(colors=FAINT, labelsize=9, length=0, which="both")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)


def tidy_panel(axes: Any, x_label: str, *, legend_columns: int = 1) -> None:
    """Tidies a panel of curves, see [`tidy_axes`], and gives it a legend below."""
    axes.set_xlabel(x_label, color=FAINT)
    tidy_axes(axes)
    # Inside the panel, the legend of many curves would cover some of them.
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        ncols=legend_columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=2.6,
    )


def wrapped(text: str) -> str:
    """Wraps any text to a title of few lines. A title is never empty, because matplotlib would give it no room."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    lines = textwrap.wrap(printable, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" …")
    return "\n".join(lines) or " "


def font_families() -> list[str]:
    """Returns the default font, followed by the installed fonts for scripts that it does not have."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return ["DejaVu Sans", *(font for font in FALLBACK_FONTS if font in installed)]


def draw_box(
    axes: Any, image: Image.Image, box: list[float], colour: str, border_colour: str, linewidth: float
) -> tuple[float, float]:
    """
    Draws a box on an image, with a border that keeps it visible on any picture.

    Args:
        axes: Panel that shows the image.
        image: The image, for its size.
        box: (x1, y1, x2, y2) in units of the image's sides.
        colour: Colour of the box.
        border_colour: Colour of the border on both sides of the line.
        linewidth: Width of the line in points.

    Returns:
        The upper left corner in pixels.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    x1, y1, x2, y2 = box
    # `imshow` puts the centre of the first pixel at (0, 0), so the image starts half a pixel before.
    corner = (x1 * image.width - 0.5, y1 * image.height - 0.5)
    width, height = (x2 - x1) * image.width, (y2 - y1) * image.height
    rectangle = Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=linewidth)
    rectangle.set_path_effects([Stroke(linewidth=2 * linewidth, foreground=border_colour), Normal()])
    axes.add_patch(rectangle)
    return corner
