"""Sweeps over alpha: evaluates the interpolated model of each alpha, as sweep.json, a table and a figure."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..evaluation.metric_names import MetricName
from ..evaluation.suite import EvaluationSettings, check_tasks, evaluate_tasks
from ..files import write_json
from ..visualize.style import require_matplotlib
from ..visualize.sweeps import SweepCurve, plot_sweep
from ..visualize.tables import format_table
from .directories import check_output
from .interpolate import ModelPair, alpha_folders, check_alphas


logger = logging.getLogger(__name__)

# The metrics of the table and the figure. All others are in sweep.json.
HEADLINES = ("R@1", "accuracy", "pointing")
# Scores that do not depend on the model: those of a map of the image's centre, and of the best map that is possible.
NOT_OF_THE_MODEL = ("centre", "best_possible")


def sweep(
    base: str | Path,
    tuned: str | Path,
    output_dir: str | Path,
    *,
    alphas: Sequence[float],
    evaluation: EvaluationSettings,
    discard: bool = False,
) -> dict[str, Any]:
    """
    Saves and evaluates the interpolated model of each alpha.

    It writes `sweep.json` after each alpha, and `sweep.png` at the end. The evaluation of an alpha is in
    `alpha_X/evaluation`.

    Args:
        base, tuned: See [`interpolate`].
        output_dir: Directory to write.
        alphas: Weights of `tuned`, each in [0, 1].
        evaluation: How each model is evaluated. Its model and its output are replaced.
        discard: Whether the models are deleted after their evaluation.

    Returns:
        The content of `sweep.json`: `schema`, `base`, `tuned`, `environment`, `settings`, and for each of `alphas` its
        `alpha`, its `model` (hash and parameters) and its `tasks`, as in results.json.

    Raises:
        ValueError: for wrong alphas, different architectures or wrong settings of the evaluation.
        ImportError: if matplotlib is not installed. It is raised before any work is done.
    """
    check_alphas(alphas)
    check_tasks(evaluation.tasks)
    require_matplotlib()
    output = Path(output_dir)
    folders = alpha_folders(output, sorted(alphas))
    for folder in folders.values():
        check_output(folder, base, tuned)
    output.mkdir(parents=True, exist_ok=True)
    pair = ModelPair(base, tuned)
    summary: dict[str, Any] = {"schema": 1, "base": str(base), "tuned": str(tuned), "alphas": []}
    for alpha, folder in folders.items():
        logger.info("alpha %g", alpha)
        with TemporaryDirectory(dir=output) if discard else nullcontext(folder) as model_dir:
            pair.save(model_dir, alpha)
            results = _evaluate(replace(evaluation, model=str(model_dir), output=folder / "evaluation"))
        summary["environment"] = results["environment"]
        summary["settings"] = results["settings"]
        # The directory of a discarded model is gone, so no name is kept.
        model = {name: value for name, value in results["model"].items() if name != "name"}
        summary["alphas"].append({"alpha": alpha, "model": model, "tasks": results["tasks"]})
        # After each alpha: a sweep that is stopped keeps what it has measured.
        write_json(summary, output / "sweep.json")
    figure = draw_sweep(summary, output / "sweep.png")
    logger.info("all metrics are in %s, the curves in %s", output / "sweep.json", figure)
    return summary


def _evaluate(settings: EvaluationSettings) -> dict[str, Any]:
    """Evaluates one model and returns the content of its results.json."""
    results = evaluate_tasks(settings)
    # Only the first of several processes has results. A sweep runs in one process.
    assert results is not None
    return results


class Headline(NamedTuple):
    """One metric of one task at each alpha."""

    task: str
    name: MetricName
    metrics: list[dict[str, Any]]
    """The `value`, `low`, `high` and `chance` at each alpha, as in results.json."""


def _percent(share: float | None) -> str:
    """Formats a share in per cent, and an unknown share as "", which leaves its cell empty."""
    if share is None:
        return ""
    return f"{100 * share:.1f}"


def format_sweep(summary: Mapping[str, Any]) -> str:
    """Formats the headline metrics of a sweep as a table in per cent: a row per metric, a column per alpha."""
    alphas = [f"{point['alpha']:g}" for point in summary["alphas"]]
    rows = []
    for headline in _headlines(summary):
        shares = [headline.metrics[0]["chance"]]
        shares += [metric["value"] for metric in headline.metrics]
        cells = [_percent(share) for share in shares]
        rows.append([f"{headline.task}: {headline.name}", *cells])
    table = format_table(["", "chance", *alphas], rows)
    return f"per cent by alpha (0: base, 1: tuned)\n{table}"


def draw_sweep(summary: Mapping[str, Any], path: str | Path) -> Path:
    """
    Draws the headline metrics over alpha with their 95 % intervals, one panel for each kind of metric of each task.

    Args:
        summary: The content of sweep.json, see [`sweep`].
        path: PNG to write.

    Returns:
        `path`.

    Raises:
        ValueError: if no metric is one of the headlines.
        ImportError: if matplotlib is not installed.
    """
    panels: dict[str, list[SweepCurve]] = {}
    for headline in _headlines(summary):
        curve = SweepCurve(
            label=_label(headline.name),
            values=[metric["value"] for metric in headline.metrics],
            lows=[metric["low"] for metric in headline.metrics],
            highs=[metric["high"] for metric in headline.metrics],
        )
        measured = f"{headline.name.part} {headline.name.probe}".strip().replace("_", " ")
        panels.setdefault(f"{headline.task}: {measured}", []).append(curve)
    if not panels:
        raise ValueError(f"metrics must include one of {', '.join(HEADLINES)}, but do not")
    return plot_sweep([point["alpha"] for point in summary["alphas"]], panels, path)


def _headlines(summary: Mapping[str, Any]) -> list[Headline]:
    headlines = []
    for task, result in summary["alphas"][0]["tasks"].items():
        for key, record in result["figures"].items():
            name = MetricName.from_record(key, record)
            if _is_headline(name):
                metrics = [point["tasks"][task]["figures"][key] for point in summary["alphas"]]
                headlines.append(Headline(task, name, metrics))
    return headlines


def _is_headline(name: MetricName) -> bool:
    is_total = not name.subset and name.head is None
    return name.metric in HEADLINES and name.score not in NOT_OF_THE_MODEL and is_total


def _label(name: MetricName) -> str:
    """Returns the part of the name that tells the curves of one panel apart."""
    words = (name.score, name.direction, name.metric)
    return " ".join(word for word in words if word).replace("_", " ").replace("cls", "CLS")


__all__ = ["draw_sweep", "format_sweep", "sweep"]
