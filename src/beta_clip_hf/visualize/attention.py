"""A figure of where each phrase looks: the image, then the image under the heat map of each phrase."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .heat_maps import enlarged, highest_of, overlay, scale_colours
from .style import FAINT, INK, draw_box, font_families, new_figure, save, wrapped


MOST_COLUMNS = 4
# Sizes in inches.
_TILE, _TITLE_LINE, _NOTE_LINE = 2.7, 0.2, 0.22
# A very wide image leaves room for the label of the colour scale. A very high one is drawn narrower than its tile.
_LOWEST_PICTURE, _HIGHEST_PICTURE = 1.6, 5.4


def plot_phrase_attention(
    image: Image.Image,
    phrases: Sequence[str],
    attention_maps: Tensor,
    path: str | os.PathLike[str],
    boxes: Sequence[Any] | None = None,
    notes: Sequence[str] | None = None,
) -> Path:
    """
    Draws an image, then the same image once per phrase under the heat map of the phrase.

    All phrases share one colour scale in multiples of a uniform map. Up to 1 the image stays grey.

    Args:
        image: What the model sees: where the processor crops, `image.crop(view_of_image(...))`.
        phrases: T texts in any script; long ones are wrapped and cut.
        attention_maps: (T, Y, X), not negative; a map that is zero everywhere is drawn as uniform.
        path: PNG to write; its directory is created if it is missing.
        boxes: For each phrase any number of boxes, xyxy in units of the image's sides.
        notes: For each phrase a short text below its picture, such as a score.

    Returns:
        `path`.

    Raises:
        ValueError: if phrases, maps, boxes and notes are not equally many, there is no phrase, or a map is negative or
            NaN.
        ImportError: if matplotlib is not installed.
    """
    maps_TYX = torch.as_tensor(attention_maps)
    if maps_TYX.ndim != 3 or len(maps_TYX) == 0:
        raise ValueError(f"attention_maps must be (phrases, height, width), but is {tuple(maps_TYX.shape)}")
    if boxes is None:
        boxes = [[]] * len(phrases)
    if notes is None:
        notes = [""] * len(phrases)
    if not len(phrases) == len(maps_TYX) == len(boxes) == len(notes):
        raise ValueError(
            f"phrases, attention_maps, boxes and notes must be as many as each other, but are {len(phrases)}, "
            f"{len(maps_TYX)}, {len(boxes)}, {len(notes)}"
        )
    highest = highest_of(*maps_TYX)
    image = enlarged(image)
    titles = [wrapped(phrase) for phrase in phrases]
    figure, tiles = _tiles_for(image, titles, has_notes=any(notes))
    fonts = font_families()
    tiles.flat[0].imshow(image)
    tiles.flat[0].set_title("image", fontsize=10, color=FAINT)
    for index, axes in enumerate(tiles.flat[1 : len(phrases) + 1]):
        axes.imshow(overlay(image, maps_TYX[index], highest))
        for box in torch.as_tensor(boxes[index]).reshape(-1, 4).tolist():
            draw_box(axes, image, box, "white", "black", linewidth=1.6)
        # A text is no formula, whatever dollar signs are in it.
        axes.set_title(titles[index], fontsize=10, color=INK, parse_math=False, fontfamily=fonts)
        note_style = {"ha": "center", "va": "top", "fontsize": 8.5, "color": FAINT}
        axes.text(0.5, -0.02, notes[index], transform=axes.transAxes, **note_style)
    _draw_colour_bar(figure, tiles, highest)
    return save(figure, path)


def _tiles_for(image: Image.Image, titles: Sequence[str], has_notes: bool) -> tuple[Any, Any]:
    """Makes a figure and its (rows, columns) tiles, with one tile for the image and one for each title."""
    count = len(titles) + 1
    columns = min(count, MOST_COLUMNS)
    rows = math.ceil(count / columns)
    most_lines = max(title.count("\n") + 1 for title in titles)
    text_height = _TITLE_LINE * most_lines
    if has_notes:
        text_height += _NOTE_LINE
    picture_height = min(max(_TILE * image.height / image.width, _LOWEST_PICTURE), _HIGHEST_PICTURE)
    tile_height = picture_height + text_height
    figure = new_figure(_TILE * columns + 0.9, rows * tile_height + 0.3)
    tiles = figure.subplots(rows, columns, squeeze=False)
    for axes in tiles.flat:
        axes.set_axis_off()
    return figure, tiles


def _draw_colour_bar(figure: Any, tiles: Any, highest: float) -> None:
    """Draws the colour scale beside the first row, as high as one picture."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = (scale_colours(256) / 255).numpy()
    scale = ScalarMappable(Normalize(1, highest), ListedColormap(colours))
    bar = figure.colorbar(scale, ax=list(tiles.flat), shrink=0.8 / len(tiles), aspect=30, pad=0.015, anchor=(0, 1))
    bar.set_label("attention, × uniform", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, length=0)
