"""The plots of the study: curves over the scenes, and all arms side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beta_clip_hf.visualize.style import FAINT, GRID, INK, line_style, new_figure, save, set_panel_title, tidy_axes

from .analysis import Results
from .arms import BASE
from .questions import (
    LABELS,
    LONG,
    POINT_ATTENTION,
    POINT_REGION,
    REGION_CLS,
    REGION_CONDITIONED,
    REGION_FEATURE,
    SHORT,
)


CURVE_ARMS = ("plain", BASE, "bce", "ce_b0", "positives", "recommended")
"""Arms whose curves are drawn: as many as there are colours."""
CURVE_METRICS = (LONG, SHORT, REGION_CLS, REGION_CONDITIONED, REGION_FEATURE, POINT_REGION)
ARM_METRICS = (LONG, SHORT, REGION_CLS, REGION_CONDITIONED, REGION_FEATURE, POINT_ATTENTION)
# Least distance between two labels, in per cent of a panel's height.
_LABEL_DISTANCE = 0.075


def plot_curves(results: Results, path: Path) -> Path:
    """Draws metrics over the scenes of training, one panel each, with the range over the seeds."""
    figure = new_figure(8, 9.5, padding=(0.1, 0.1))
    panels = figure.subplots(3, 2).flatten()
    for axes, metric in zip(panels, CURVE_METRICS, strict=True):
        _draw_curves(axes, results, metric)
    for axes in panels[-2:]:
        axes.set_xlabel("scenes of training", color=FAINT)
    return save(figure, path)


def _draw_curves(axes: Any, results: Results, metric: str) -> None:
    set_panel_title(axes, f"{LABELS[metric]}, %")
    ends = []
    ticks: set[int] = set()
    for number, arm in enumerate(CURVE_ARMS):
        curve = results.curve(arm, metric)
        # A point before the training alone is no curve.
        if len(curve) < 2:
            continue
        scenes = [point[0] for point in curve]
        means = [100 * point[1].mean for point in curve]
        ticks.update(scenes)
        style = line_style(number)
        axes.plot(scenes, means, linewidth=1.8, marker="o", markersize=3, **style)
        lows = [100 * min(point[1].values) for point in curve]
        highs = [100 * max(point[1].values) for point in curve]
        axes.fill_between(scenes, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
        ends.append((means[-1], scenes[-1], arm, style["color"]))
    _draw_chance(axes, results.chance(metric))
    if results.start == "scratch":
        axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [f"{round(scenes / 1000, 1):g}k" for scenes in sorted(ticks)])
    axes.set_xticks([], minor=True)
    tidy_axes(axes)
    _label_ends(axes, ends)


def _draw_chance(axes: Any, chance: float | None) -> None:
    """Draws the chance level if it lies close to the curves. Far below them, it would press them together."""
    if chance is None:
        return
    low, high = axes.get_ylim()
    if low - 100 * chance < 0.3 * (high - low):
        axes.axhline(100 * chance, color=FAINT, linewidth=0.8, linestyle=":")


def _label_ends(axes: Any, ends: Sequence[tuple[float, int, str, str]]) -> None:
    """Writes the name of each arm at the end of its curve, moved apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    # Labels begin at the end of the longest curve, and have room to the right of it.
    right = max(end[1] for end in ends)
    places = spread_out([end[0] for end in ends], _LABEL_DISTANCE * (high - low))
    for (_, _, arm, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            arm,
            (right, place),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
            # A label that was moved above or below the panel is drawn too.
            annotation_clip=False,
        )


def spread_out(values: Sequence[float], distance: float) -> list[float]:
    """
    Moves numbers apart, so that no two are closer than a distance. Their order and their middle stay.

    >>> spread_out([1.0, 1.0, 9.0], 2.0)
    [0.0, 2.0, 9.0]
    """
    order = sorted(range(len(values)), key=lambda index: values[index])
    # Groups of labels that touch: their sum of values and their members.
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _overlap(groups[-2], groups[-1], values, distance):
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(values)
    for group in groups:
        first = _first_place(group, values, distance)
        for position, index in enumerate(group):
            places[index] = first + position * distance
    return places


def _first_place(group: Sequence[int], values: Sequence[float], distance: float) -> float:
    middle = sum(values[index] for index in group) / len(group)
    return middle - (len(group) - 1) * distance / 2


def _overlap(lower: Sequence[int], upper: Sequence[int], values: Sequence[float], distance: float) -> bool:
    last_of_lower = _first_place(lower, values, distance) + (len(lower) - 1) * distance
    return _first_place(upper, values, distance) - last_of_lower < distance


def plot_arms(results: Results, path: Path) -> Path:
    """Draws some metrics of all arms as dots with the range over the seeds; lines mark plain CLIP and the base."""
    arms = list(results.records)
    figure = new_figure(9, 1.2 + 0.19 * len(arms), padding=(0.05, 0.05))
    panels = figure.subplots(1, len(ARM_METRICS), sharey=True)
    for axes, metric in zip(panels, ARM_METRICS, strict=True):
        _draw_dots(axes, results, metric, arms)
    panels[0].set_yticks(range(len(arms)), arms, color=INK, fontsize=9)
    # The first arm of the table is the uppermost.
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    return save(figure, path)


def _draw_dots(axes: Any, results: Results, metric: str, arms: Sequence[str]) -> None:
    title, _, score = LABELS[metric].partition(", ")
    axes.set_title(f"{title}\n{score}", loc="left", color=INK, fontsize=9)
    for number, arm in enumerate(("plain", BASE)):
        reference = results.spread(arm, metric)
        if reference is not None:
            axes.axvline(100 * reference.mean, linewidth=1, zorder=0, **line_style(number))
    for row, arm in enumerate(arms):
        spread = results.spread(arm, metric)
        if spread is not None:
            axes.plot([100 * min(spread.values), 100 * max(spread.values)], [row, row], color=FAINT, linewidth=2)
            axes.plot([100 * spread.mean], [row], marker="o", markersize=4.5, color=INK)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="both", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
