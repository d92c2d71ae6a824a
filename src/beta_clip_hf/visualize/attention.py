"""Where each phrase looks: the image under the heat map of each."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .heat_maps import enlarged, highest_of, overlay, scale_colours
from .style import FAINT, INK, draw_box, font_families, new_figure, save, wrapped


def plot_phrase_attention(
    image: Image.Image,
    phrases: Sequence[str],
    attention_maps: Tensor,
    path: str | os.PathLike[str],
    boxes: Sequence[Any] | None = None,
    notes: Sequence[str] | None = None,
) -> Path:
    """
    The image, then the same image once per phrase under the phrase's heat map, with the phrase's boxes if given. One
    colour scale for all phrases, in multiples of what a uniform map would have: up to 1 the image stays grey.

    Args:
        image: What the model sees: where the processor crops, `image.crop(view_of_image(...))`.
        phrases: N texts, any script; long ones are wrapped and cut.
        attention_maps: (N, H, W), not negative; a map that is zero everywhere is drawn as uniform.
        path: Where the PNG goes; its directory is made.
        boxes: For each phrase (M, 4) boxes, xyxy in units of the image's sides.
        notes: For each phrase a short text below its picture, such as a score.

    Returns:
        `path`.

    Raises:
        ValueError: where phrases, maps, boxes and notes are not as many, there is none, or a map is negative or NaN.
        ImportError: without matplotlib.
    """
    maps_NHW = torch.as_tensor(attention_maps)
    if maps_NHW.ndim != 3 or len(maps_NHW) == 0:
        raise ValueError(f"attention_maps must be (phrases, height, width), but is {tuple(maps_NHW.shape)}")
    boxes = [[]] * len(phrases) if boxes is None else boxes
    notes = [""] * len(phrases) if notes is None else notes
    if not len(phrases) == len(maps_NHW) == len(boxes) == len(notes):
        raise ValueError(
            f"phrases, attention_maps, boxes and notes must be as many as each other, but are {len(phrases)}, "
            f"{len(maps_NHW)}, {len(boxes)}, {len(notes)}"
        )
    highest, image = highest_of(*maps_NHW), enlarged(image)
    columns = min(len(phrases) + 1, 4)
    rows = -(-(len(phrases) + 1) // columns)
    titles = [wrapped(phrase) for phrase in phrases]
    text_height = 0.2 * max(title.count("\n") + 1 for title in titles) + (0.22 if any(notes) else 0)
    figure = new_figure(2.7 * columns + 0.9, rows * (2.7 * image.height / image.width + text_height) + 0.3)
    tiles, fonts = figure.subplots(rows, columns, squeeze=False), font_families()
    for axes in tiles.flat:
        axes.set_axis_off()
    tiles.flat[0].imshow(image)
    tiles.flat[0].set_title("image", fontsize=10, color=FAINT)
    for axes, title, heat_HW, its_boxes, note in zip(tiles.flat[1:], titles, maps_NHW, boxes, notes, strict=False):
        axes.imshow(overlay(image, heat_HW, highest))
        _draw_boxes(axes, image, its_boxes)
        axes.set_title(title, fontsize=10, color=INK, parse_math=False, fontfamily=fonts)
        axes.text(0.5, -0.02, note, transform=axes.transAxes, ha="center", va="top", fontsize=8.5, color=FAINT)
    _draw_colour_bar(figure, tiles, highest)
    return save(figure, path)


def _draw_boxes(axes: Any, image: Image.Image, boxes: Any) -> None:
    for box in torch.as_tensor(boxes).reshape(-1, 4).tolist():
        draw_box(axes, image, box, "white", "black", linewidth=1.6)


def _draw_colour_bar(figure: Any, tiles: Any, highest: float) -> None:
    """As high as one picture, beside the first row."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    scale = ScalarMappable(Normalize(1, highest), ListedColormap((scale_colours(256) / 255).numpy()))
    bar = figure.colorbar(scale, ax=list(tiles.flat), shrink=0.8 / len(tiles), aspect=30, pad=0.015, anchor=(0, 1))
    bar.set_label("attention, × uniform", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, length=0)
