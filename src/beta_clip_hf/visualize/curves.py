"""Curves of a run: losses, recall and learning rates over the steps. Curves of an evaluation: recall over k."""

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..model.objective_beta_clip import LOSS_PARTS
from .log_keys import LEARNING_RATE_KEYS, RECALL_DIRECTIONS, RecallKey, recall_keys
from .style import BLUE, FAINT, INK, VERMILION, line_style, new_figure, save, set_panel_title, tidy_panel


LOSS_LABELS = {
    "loss": "total",
    "clip_loss": "CLIP loss",
    "short_clip_loss": "CLIP loss, short captions",
    "beta_cal_loss": "β-CAL loss",
}
_RECALL_DASHES = {1: "-", 5: "--", 10: ":"}
_FEW_POINTS = 12


class _Curve(NamedTuple):
    """The values of one logged number."""

    steps: list[float]
    values: list[float]


class _Panel(NamedTuple):
    """Curves that share a panel, and the function that draws them."""

    draw: Callable[[Any, Mapping[str, _Curve]], None]
    curves: dict[str, _Curve]


def plot_training_curves(
    log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, data_names: Sequence[str] = ()
) -> Path:
    """
    Draws losses, recall and learning rates over the steps of a run. A panel without data is left out.

    Args:
        log_history: The Trainer's `state.log_history`: records with `step` and any of `loss`, its parts (`LOSS_PARTS`),
            the recalls of `recall_keys` (R@k in [0, 1]) and `LEARNING_RATE_KEYS`.
        path: PNG to write; its directory is created if it is missing.
        data_names: Names of the evaluation sets, if the Trainer has several: `list(trainer.eval_dataset)`.

    Returns:
        `path`.

    Raises:
        ValueError: if no record has anything to draw.
        ImportError: if matplotlib is not installed.
    """
    recall_names = {key.key for key in recall_keys(data_names)}
    losses = _Panel(_draw_losses, {})
    recalls = _Panel(functools.partial(_draw_recalls, data_names), {})
    rates = _Panel(_draw_rates, {})
    for key, curve in _curves_of_log(log_history).items():
        if key == "loss" or key in LOSS_PARTS:
            losses.curves[key] = curve
        elif key in recall_names:
            recalls.curves[key] = curve
        elif key in LEARNING_RATE_KEYS:
            rates.curves[key] = curve
    panels = [panel for panel in (losses, recalls, rates) if panel.curves]
    if not panels:
        raise ValueError(
            "there must be a loss, a recall or a learning rate to draw, but the run has logged none (a run shorter "
            "than logging_steps logs none)"
        )
    figure = new_figure(4.6 * len(panels), 4.2)
    tiles = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(tiles, panels, strict=True):
        panel.draw(axes, panel.curves)
        axes.margins(x=0.02)
        tidy_panel(axes, "step", legend_columns=2)
    return save(figure, path)


def plot_recall_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    path: str | os.PathLike[str],
    *,
    chance_labels: Collection[str] = ("chance",),
) -> Path:
    """
    Draws R@k over k, in one panel per direction.

    Args:
        curves: For each direction, such as "text_to_image", the curves by their label, such as "long/cls". A curve is
            pairs of k and recall in [0, 1].
        path: PNG to write; its directory is created if it is missing.
        chance_labels: Labels of the curves of chance, which are thin and grey.

    Returns:
        `path`.

    Raises:
        ValueError: if there is no curve.
        ImportError: if matplotlib is not installed.
    """
    if not any(curves.values()):
        raise ValueError("curves must hold at least one curve, but hold none")
    figure = new_figure(4.6 * len(curves), 4.2)
    highest = 0.0
    tiles = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (direction, panel_curves) in zip(tiles, curves.items(), strict=True):
        for index, (label, points) in enumerate(panel_curves.items()):
            ks = [k for k, _ in points]
            percents = [100 * recall for _, recall in points]
            highest = max(highest, *percents)
            style = {"color": FAINT, "linewidth": 1} if label in chance_labels else line_style(index)
            axes.plot(ks, percents, label=label, **style)
        set_panel_title(axes, f"{direction.replace('_', ' ')}, R@k in %")
    for axes in tiles:
        axes.set(xscale="log", ylim=(0, 1.05 * highest))
        axes.set_xticks([1, 5, 10, 100], ["1", "5", "10", "100"])
        axes.margins(x=0.02)
        tidy_panel(axes, "k", legend_columns=2)
    return save(figure, path)


def _draw_losses(axes: Any, curves: Mapping[str, _Curve]) -> None:
    """Draws the total in the colour of the text, and its parts in the colours of curves."""
    set_panel_title(axes, "Training loss")
    for index, (key, curve) in enumerate(curves.items()):
        label = LOSS_LABELS.get(key, key.replace("_", " "))
        style = {"color": INK, "linestyle": "-"} if key == "loss" else line_style(index)
        axes.plot(curve.steps, curve.values, linewidth=1.6, label=label, **style, **_markers(curve))


def _draw_recalls(data_names: Sequence[str], axes: Any, curves: Mapping[str, _Curve]) -> None:
    """Draws recalls. The colour tells the direction, the dashes tell k."""
    set_panel_title(axes, "Recall on the evaluation set")
    recalls = {key.key: key for key in recall_keys(data_names)}
    for name, curve in curves.items():
        key = recalls[name]
        colour = BLUE if key.direction == "i2t" else VERMILION
        dashes = _RECALL_DASHES[key.k]
        percents = [100 * recall for recall in curve.values]
        label = _recall_label(key)
        axes.plot(curve.steps, percents, dashes, color=colour, linewidth=1.6, label=label, **_markers(curve))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")


def _recall_label(key: RecallKey) -> str:
    label = f"{RECALL_DIRECTIONS[key.direction]} R@{key.k}"
    return f"{key.data.replace('_', ' ')} {label}" if key.data else label


def _draw_rates(axes: Any, curves: Mapping[str, _Curve]) -> None:
    """Draws the learning rate of each parameter group on a logarithmic axis."""
    set_panel_title(axes, "Learning rate")
    for index, (key, curve) in enumerate(curves.items()):
        # A warm-up starts at 0, which a logarithmic axis does not have.
        positive = [value if value > 0 else float("nan") for value in curve.values]
        axes.plot(
            curve.steps, positive, linewidth=1.6, label=LEARNING_RATE_KEYS[key], **line_style(index), **_markers(curve)
        )
    axes.set_yscale("log")


def _curves_of_log(log_history: Sequence[Mapping[str, Any]]) -> dict[str, _Curve]:
    """Returns the steps and values of each number in a Trainer's log, by its key."""
    curves: dict[str, _Curve] = {}
    for record in log_history:
        if "step" not in record:
            continue
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                curve = curves.setdefault(key, _Curve([], []))
                curve.steps.append(record["step"])
                curve.values.append(value)
    return curves


def _markers(curve: _Curve) -> dict[str, Any]:
    """Returns a style with dots for a curve of few points, which its line alone would hide."""
    return {"marker": "o", "markersize": 3.5} if len(curve.steps) <= _FEW_POINTS else {}
