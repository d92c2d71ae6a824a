"""Figures of what regions are taken for: numbered boxes on the image, and beside it a bar for each text of a region."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .heat_maps import enlarged
from .style import COLOURS, FAINT, GRID, INK, draw_box, font_families, new_figure, save, wrapped


_PALE = "#BBBBBB"


@dataclass(frozen=True)
class _Bars:
    """Holds the bars of one region."""

    texts: Sequence[str]
    values: list[float]
    colour: str
    fonts: list[str]

    @property
    def best(self) -> int:
        """Index of the text with the highest value, the first of equal ones."""
        return max(range(len(self.values)), key=self.values.__getitem__)


def plot_region_choices(
    image: Image.Image,
    boxes: Any,
    texts: Sequence[Sequence[str]],
    probabilities: Sequence[Any],
    path: str | os.PathLike[str],
) -> Path:
    """
    Draws numbered regions on an image, and for each region the probabilities of its true text and its negatives.

    The true text is in bold. A first choice that is wrong is hatched.

    Args:
        image: What the model sees.
        boxes: (R, 4), xyxy in units of the image's sides.
        texts: For each region its true text, then any number of negatives.
        probabilities: For each region and text, in [0, 1].
        path: PNG to write; its directory is created if it is missing.

    Returns:
        `path`.

    Raises:
        ValueError: if boxes, texts and probabilities are not equally many, or there is no region.
        ImportError: if matplotlib is not installed.
    """
    values = _as_floats(probabilities)
    _check_counts("probabilities", boxes, texts, values)
    return _plot_regions(image, boxes, texts, values, path, _draw_choices, limits=(0, 1))


def plot_region_scores(
    image: Image.Image, boxes: Any, texts: Sequence[str], scores: Any, path: str | os.PathLike[str]
) -> Path:
    """
    Draws numbered regions on an image, and for each region its scores with all texts. The best text is in bold.

    Args:
        image: What the model sees.
        boxes: (R, 4), xyxy in units of the image's sides.
        texts: T texts, the same for all regions.
        scores: (R, T), such as cosines, of any sign; all regions share one scale.
        path: PNG to write; its directory is created if it is missing.

    Returns:
        `path`.

    Raises:
        ValueError: if boxes, texts and scores do not fit each other, or there is no region or no text.
        ImportError: if matplotlib is not installed.
    """
    values = _as_floats(scores)
    region_texts = [texts] * len(values)
    _check_counts("scores", boxes, region_texts, values)
    lowest, highest = 0.0, 0.0
    for region_values in values:
        lowest = min(lowest, *region_values)
        highest = max(highest, *region_values)
    # Room on the right for the numbers, and an axis that has a length even if all scores are 0.
    limits = (lowest, 1.15 * highest or 1)
    return _plot_regions(image, boxes, region_texts, values, path, _draw_scores, limits)


def _as_floats(values: Sequence[Any]) -> list[list[float]]:
    """Returns the values of each region, from a tensor or from sequences of different lengths."""
    rows = []
    for region_values in values:
        rows.append([float(value) for value in region_values])
    return rows


def _check_counts(name: str, boxes: Any, texts: Sequence[Sequence[str]], values: Sequence[Sequence[float]]) -> None:
    """Raises `ValueError` unless there is a box, at least one text and a value per text for each region."""
    num_boxes = len(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    text_counts = [len(region_texts) for region_texts in texts]
    value_counts = [len(region_values) for region_values in values]
    are_equal = num_boxes == len(text_counts) and text_counts == value_counts
    if not are_equal or not text_counts or 0 in text_counts:
        raise ValueError(
            f"boxes, texts and {name} must be as many as each other, but are {num_boxes}, {text_counts}, {value_counts}"
        )


def _plot_regions(
    image: Image.Image,
    boxes: Any,
    texts: Sequence[Sequence[str]],
    values: Sequence[list[float]],
    path: str | os.PathLike[str],
    draw_panel: Callable[[Any, _Bars], None],
    limits: tuple[float, float],
) -> Path:
    """Draws the image on the left and one panel per region on the right."""
    boxes_R4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    columns = min(2, len(texts))
    rows = math.ceil(len(texts) / columns)
    most_texts = max(len(region_texts) for region_texts in texts)
    figure = new_figure(4.4 * columns + 3.6, max(rows * (0.24 * most_texts + 0.5), 3.4))
    left, right = figure.subfigures(1, 2, width_ratios=[3.4, 4.4 * columns])
    image = enlarged(image)
    picture = left.subplots()
    picture.imshow(image)
    picture.set_axis_off()
    fonts = font_families()
    panels = right.subplots(rows, columns, squeeze=False).flat
    for index, region_texts in enumerate(texts):
        colour = COLOURS[index % len(COLOURS)]
        _draw_numbered_box(picture, image, boxes_R4[index].tolist(), index + 1, colour)
        panel = panels[index]
        draw_panel(panel, _Bars(region_texts, values[index], colour, fonts))
        panel.set_xlim(limits)
        panel.set_title(f"region {index + 1}", loc="left", color=colour, fontsize=10, fontweight="bold")
    for panel in panels[len(texts) :]:
        panel.set_axis_off()
    return save(figure, path)


def _draw_choices(axes: Any, bars: _Bars) -> None:
    """Draws probabilities; the true text, which is the first, is in bold."""
    drawn = _draw_bars(axes, bars, bold=0)
    if bars.best != 0:
        drawn[bars.best].set_hatch("////")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _draw_scores(axes: Any, bars: _Bars) -> None:
    """Draws scores of any sign with their numbers; the best text is in bold."""
    _draw_bars(axes, bars, bold=bars.best)
    for index, value in enumerate(bars.values):
        # Right of the axis for a negative score too: on its left are the texts.
        axes.text(max(value, 0), index, f" {value:.2f}", va="center", fontsize=8, color=INK)


def _draw_bars(axes: Any, bars: _Bars, bold: int) -> Any:
    """Draws a bar for each text from top to bottom, and returns them; the bold text is in the region's colour."""
    count = len(bars.texts)
    colours = [_PALE] * count
    colours[bold] = bars.colour
    drawn = axes.barh(range(count), bars.values, height=0.72, color=colours)
    first_lines = [wrapped(text).split("\n")[0] for text in bars.texts]
    # A text is no formula, whatever dollar signs are in it.
    axes.set_yticks(range(count), first_lines, parse_math=False)
    for index, label in enumerate(axes.get_yticklabels()):
        weight = "bold" if index == bold else "normal"
        colour = INK if index in (bold, bars.best) else FAINT
        label.set(fontweight=weight, color=colour, fontsize=8.5, fontfamily=bars.fonts)
    axes.invert_yaxis()
    axes.tick_params(axis="x", colors=FAINT, labelsize=8, length=0)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return drawn


def _draw_numbered_box(axes: Any, image: Image.Image, box: list[float], number: int, colour: str) -> None:
    """Draws a box with its number at the upper left corner."""
    corner = draw_box(axes, image, box, colour, "white", linewidth=2.2)
    label = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "white"}
    axes.text(*corner, str(number), color="white", fontsize=9, fontweight="bold", bbox=label)
