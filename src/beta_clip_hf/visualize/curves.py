"""Curves: losses, recall and learning rates over a run; recall over k."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .style import BLUE, COLOURS, DASHES, FAINT, GRID, INK, VERMILION, new_figure, save


LOSS_LABELS = {
    "loss": "total",
    "clip_loss": "CLIP loss",
    "short_clip_loss": "CLIP loss, short captions",
    "beta_cal_loss": "β-CAL loss",
}
RECALL_DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """
    Losses, recall and learning rates over the steps of a run; a panel without data is left out.

    Args:
        log_history: The Trainer's `state.log_history`: records with `step` and any of `loss`, `*_loss`, `eval_*_r1`
            (R@k in [0, 1]) and `*learning_rate`.
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: where no record has anything to draw.
        ImportError: without matplotlib.
    """
    curves = _curves(log_history)
    losses = {name: curve for name, curve in curves.items() if name == "loss" or _is_loss_part(name)}
    recalls = {name: curve for name, curve in curves.items() if _is_recall(name)}
    rates = {name: curve for name, curve in curves.items() if name.endswith("learning_rate")}
    panels = [
        (draw, group)
        for draw, group in ((_draw_losses, losses), (_draw_recalls, recalls), (_draw_rates, rates))
        if group
    ]
    if not panels:
        raise ValueError(
            "there must be a loss, a recall or a learning rate to draw, but the run has logged none (one shorter than "
            "logging_steps logs none)"
        )
    figure = new_figure(4.6 * len(panels), 4.2)
    for axes, (draw, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, group)
        _clean(axes)
    return save(figure, path)


def plot_recall_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | os.PathLike[str]) -> Path:
    """
    R@k over k, a panel for each way.

    Args:
        curves: By name, as `long/cls/text_to_image`, whose last word is the way: pairs of k and recall in [0, 1]. That
            of `chance` is thin and grey.
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: without curves.
        ImportError: without matplotlib.
    """
    ways = list(dict.fromkeys(name.rpartition("/")[2] for name in curves))
    if not ways:
        raise ValueError("curves must be at least one, but there is none")
    figure = new_figure(4.6 * len(ways), 4.2)
    highest = max(100 * recall for curve in curves.values() for _, recall in curve)
    for axes, way in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways, strict=True):
        of_way = {name.rpartition("/")[0]: curve for name, curve in curves.items() if name.rpartition("/")[2] == way}
        for (name, curve), colour, dashes in zip(of_way.items(), _cycle(COLOURS), _cycle(DASHES), strict=False):
            ks, recalls = zip(*curve, strict=True)
            style = {"color": FAINT, "linewidth": 1} if name.endswith("chance") else {"color": colour, "ls": dashes}
            axes.plot(ks, [100 * recall for recall in recalls], label=name, **style)
        axes.set(xscale="log", ylim=(0, 1.05 * highest), title=f"{way.replace('_', ' ')}, R@k in %")
        axes.set_xticks([1, 5, 10, 100], ["1", "5", "10", "100"])
        _clean(axes)
        axes.set_xlabel("k")
    return save(figure, path)


def _draw_losses(axes: Any, curves: Mapping[str, Any]) -> None:
    _title(axes, "Training loss")
    for colour, dashes, (name, (steps, values)) in zip(_cycle(COLOURS), _cycle(DASHES), curves.items(), strict=False):
        label = LOSS_LABELS.get(name, name.replace("_", " "))
        style = {"color": INK, "ls": "-"} if name == "loss" else {"color": colour, "ls": dashes}
        axes.plot(steps, values, linewidth=1.6, label=label, **style, **_dots(steps))


def _draw_recalls(axes: Any, curves: Mapping[str, Any]) -> None:
    _title(axes, "Recall on the evaluation set")
    for name, (steps, values) in curves.items():
        *words, direction, k = name.removeprefix("eval_").split("_")
        colour = BLUE if direction == "i2t" else VERMILION
        style = {"r1": "-", "r5": "--", "r10": ":"}.get(k, "-.")
        label = " ".join([*words, RECALL_DIRECTIONS[direction], f"R@{k[1:]}"])
        axes.plot(steps, [100 * v for v in values], style, color=colour, linewidth=1.6, label=label, **_dots(steps))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")


def _draw_rates(axes: Any, curves: Mapping[str, Any]) -> None:
    _title(axes, "Learning rate")
    for colour, dashes, (name, (steps, values)) in zip(_cycle(COLOURS), _cycle(DASHES), curves.items(), strict=False):
        label = name.removesuffix("learning_rate").strip("_").replace("_", " ") or "towers"
        positive = [value if value > 0 else float("nan") for value in values]  # a warm-up starts at 0
        axes.plot(steps, positive, color=colour, ls=dashes, linewidth=1.6, label=label, **_dots(steps))
    axes.set_yscale("log")


def _curves(log_history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """By name, the steps at which a number was logged and its values."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for record in log_history:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and "step" in record:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return curves


def _is_loss_part(name: str) -> bool:
    return name.endswith("_loss") and not name.startswith(("eval_", "train_"))


def _is_recall(name: str) -> bool:
    *_, direction, k = ("", *name.split("_"))
    return name.startswith("eval_") and direction in RECALL_DIRECTIONS and k[:1] == "r" and k[1:].isdigit()


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize=11, fontweight="bold")


def _clean(axes: Any) -> None:
    axes.set_xlabel("step", color=FAINT)
    axes.tick_params(colors=FAINT, labelsize=9, length=0, which="both")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    # Under the panel: inside, a legend of many curves would lie on some of them.
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 2}
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6, **place)


def _cycle(colours: Sequence[str]) -> Any:
    return (colours[index % len(colours)] for index in range(10**6))


def _dots(steps: Sequence[float]) -> dict[str, Any]:
    """Markers where there are so few points that a line alone would hide them."""
    return {"marker": "o", "markersize": 3.5} if len(steps) <= 12 else {}
