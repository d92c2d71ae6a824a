"""What regions are taken for: numbered boxes on the image, and bars of texts beside it.

Letters: R regions, T texts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .heat_maps import enlarged
from .style import COLOURS, FAINT, GRID, INK, draw_box, font_families, new_figure, save, wrapped


def plot_region_choices(
    image: Image.Image,
    boxes: Any,
    texts: Sequence[Sequence[str]],
    probabilities: Sequence[Any],
    path: str | os.PathLike[str],
) -> Path:
    """
    The image with its regions, numbered, and beside it what each region is taken for: its true text and its negatives,
    with a bar for the probability of each. The true text is in bold; a wrong first choice is hatched.

    Args:
        image: What the model sees.
        boxes: (R, 4), xyxy in units of the image's sides.
        texts: Per region its true text, then its negatives, any number of them.
        probabilities: Per region and text, in [0, 1].
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: where boxes, texts and probabilities are not as many as each other, or there is no region.
        ImportError: without matplotlib.
    """
    return _plot_regions(image, boxes, texts, probabilities, path, has_truth=True)


def plot_region_scores(
    image: Image.Image, boxes: Any, texts: Sequence[str], scores: Any, path: str | os.PathLike[str]
) -> Path:
    """
    The image with its regions, numbered, and beside it the score of each region with each text. The best is in bold.

    Args:
        image: What the model sees.
        boxes: (R, 4), xyxy in units of the image's sides.
        texts: T of them, the same for all regions.
        scores: (R, T), such as cosines: of any sign and scale, which is the same for all regions.
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: where boxes, texts and scores do not fit each other, or there is no region or no text.
        ImportError: without matplotlib.
    """
    return _plot_regions(image, boxes, [texts] * len(scores), scores, path, has_truth=False)


def _plot_regions(
    image: Image.Image,
    boxes: Any,
    texts: Sequence[Sequence[str]],
    values: Sequence[Any],
    path: str | os.PathLike[str],
    has_truth: bool,
) -> Path:
    boxes_R4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    values = [list(map(float, of_region)) for of_region in values]
    lengths = [len(of_region) for of_region in texts]
    if len(boxes_R4) != len(lengths) or list(map(len, values)) != lengths or not lengths or not all(lengths):
        raise ValueError(
            f"boxes, texts and {'probabilities' if has_truth else 'scores'} must be as many as each other, but are "
            f"{len(boxes_R4)}, {lengths}, {list(map(len, values))}"
        )
    columns = min(2, len(lengths))
    rows = -(-len(lengths) // columns)
    figure = new_figure(4.4 * columns + 3.6, max(rows * (0.24 * max(lengths) + 0.5), 3.4))
    left, right = figure.subfigures(1, 2, width_ratios=[3.4, 4.4 * columns])
    axes, image, fonts = left.subplots(), enlarged(image), font_families()
    axes.imshow(image)
    axes.set_axis_off()
    every = [value for of_region in values for value in of_region]
    limits = (0, 1) if has_truth else (min(0, *every), 1.15 * max(0, *every) or 1)
    for number, panel in enumerate(right.subplots(rows, columns, squeeze=False).flat):
        if number < len(lengths):
            colour = COLOURS[number % len(COLOURS)]
            _draw_numbered_box(axes, image, boxes_R4[number].tolist(), number + 1, colour)
            _draw_choices(panel, texts[number], values[number], colour, fonts, has_truth)
            panel.set_xlim(limits)
            panel.set_title(f"region {number + 1}", loc="left", color=colour, fontsize=10, fontweight="bold")
        else:
            panel.set_axis_off()
    return save(figure, path)


def _draw_choices(
    axes: Any, texts: Sequence[str], values: list[float], colour: str, fonts: list[str], has_truth: bool
) -> None:
    """A bar for each text; the true text, the first, is in colour and bold, or the best where none is known."""
    best = max(range(len(texts)), key=values.__getitem__)
    bold = 0 if has_truth else best
    colours = [colour if place == bold else "#BBBBBB" for place in range(len(texts))]
    bars = axes.barh(range(len(texts)), values, height=0.72, color=colours)
    if best != bold:
        bars[best].set_hatch("////")
    if has_truth:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    else:
        for place, value in enumerate(values):  # right of the axis also below 0, where the texts are on the left
            axes.text(max(value, 0), place, f" {value:.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(texts)), [wrapped(text).split("\n")[0] for text in texts], parse_math=False)
    for place, label in enumerate(axes.get_yticklabels()):
        label.set(fontweight="bold" if place == bold else "normal", color=INK if place in (bold, best) else FAINT)
        label.set(fontsize=8.5, fontfamily=fonts)
    axes.invert_yaxis()
    axes.tick_params(axis="x", colors=FAINT, labelsize=8, length=0)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_numbered_box(axes: Any, image: Image.Image, box: list[float], number: int, colour: str) -> None:
    corner = draw_box(axes, image, box, colour, "white", linewidth=2.2)
    label = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "white"}
    axes.text(*corner, str(number), color="white", fontsize=9, fontweight="bold", bbox=label)
