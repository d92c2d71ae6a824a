"""Metrics over the weight alpha of interpolated models, as a figure."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .style import FAINT, line_style, new_figure, save, set_panel_title, tidy_panel


MOST_COLUMNS = 3


@dataclass(frozen=True)
class SweepCurve:
    """One metric at each alpha: shares in [0, 1]."""

    label: str
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    """The ends of the 95 % interval of each value."""


def plot_sweep(
    alphas: Sequence[float], panels: Mapping[str, Sequence[SweepCurve]], path: str | os.PathLike[str]
) -> Path:
    """
    Draws metrics over alpha with their intervals.

    Args:
        alphas: The weights of the tuned model, in increasing order.
        panels: The curves of each panel by its title; a curve has one value per alpha.
        path: PNG to write; its directory is created if it is missing.

    Returns:
        `path`.

    Raises:
        ValueError: if there is no panel.
        ImportError: if matplotlib is not installed.
    """
    if not panels:
        raise ValueError("panels must be at least one, but there is none")
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    figure = new_figure(4.8 * columns, 4.4 * rows, padding=(0.1, 0.12))
    figure.supxlabel("shaded: 95 % interval", x=0.99, ha="right", fontsize=9, color=FAINT)
    tiles = figure.subplots(rows, columns, squeeze=False).flat
    for axes in tiles[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, curves) in zip(tiles, panels.items(), strict=False):
        set_panel_title(axes, title)
        _draw_curves(axes, alphas, curves)
        tidy_panel(axes, "α  (0: base, 1: tuned)")
    return save(figure, path)


def _draw_curves(axes: Any, alphas: Sequence[float], curves: Sequence[SweepCurve]) -> None:
    """Draws a line in per cent for each curve, with its interval as a band behind it."""
    for index, curve in enumerate(curves):
        style = line_style(index)
        axes.plot(alphas, _percents(curve.values), linewidth=1.8, marker="o", markersize=4, label=curve.label, **style)
        axes.fill_between(
            alphas, _percents(curve.lows), _percents(curve.highs), color=style["color"], alpha=0.08, linewidth=0
        )
    axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")


def _percents(shares: Sequence[float]) -> list[float]:
    """Returns shares in per cent."""
    return [100 * share for share in shares]
