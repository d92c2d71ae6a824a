"""What interpolation gains and loses: each alpha evaluated, as sweep.json, a table and a picture."""

import argparse
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from beta_clip_cli.evaluate import evaluation_settings, task_names

from ..evaluation.suite import EvaluationSettings, evaluate_tasks
from ..files import write_json
from ..visualize.style import require_matplotlib
from ..visualize.sweeps import SweepCurve, plot_sweep
from ..visualize.tables import format_table
from .export import check_output
from .interpolate import Pair, folders_of_alphas


logger = logging.getLogger(__name__)

# The figures of the table and the picture; all others are in sweep.json.
HEADLINES = ("R@1", "accuracy", "pointing")
NOT_OF_THE_MODEL = ("centre", "best_possible")


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    """
    Saves and evaluates the model of each alpha; writes `sweep.json` after each, the table and `sweep.png` at the end.

    Args:
        args: those of `beta-clip interpolate`.

    Returns:
        What `sweep.json` holds: `base`, `tuned`, `environment`, `settings`, and for each of `alphas` its `alpha`, its
        `model` (hash and parameters) and its `tasks`, as in results.json.

    Raises:
        ValueError: as [`interpolate`] and `beta-clip evaluate` do.
        ImportError: without matplotlib, before any work is done.
    """
    require_matplotlib()
    output, alphas = Path(args.output), sorted(args.alpha)
    folders = folders_of_alphas(output, alphas)
    for folder in folders:
        check_output(folder, args.base, args.tuned)
    output.mkdir(parents=True, exist_ok=True)
    pair = Pair(args.base, args.tuned)
    summary: dict[str, Any] = {"schema": 1, "base": str(args.base), "tuned": str(args.tuned), "alphas": []}
    for alpha, folder in zip(alphas, folders, strict=True):
        logger.info("alpha %g", alpha)
        with TemporaryDirectory(dir=output) if args.discard else nullcontext(folder) as place:
            pair.save(place, alpha)
            results = _evaluate(args, place, folder / "evaluation")
        summary |= {name: results[name] for name in ("environment", "settings")}
        del results["model"]["name"]  # of a directory that may be gone
        summary["alphas"].append({"alpha": alpha} | {name: results[name] for name in ("model", "tasks")})
        write_json(summary, output / "sweep.json")
    picture = draw_sweep(summary, output / "sweep.png")
    logger.info("all figures are in %s, the curves in %s", output / "sweep.json", picture)
    return summary


def format_sweep(summary: Mapping[str, Any]) -> str:
    """The headline figures of a sweep as a plain-text table: a row for each, a column for each alpha, in per cent."""
    alphas = [f"{one['alpha']:g}" for one in summary["alphas"]]
    rows = []
    for (task, name), figures in _headlines(summary).items():
        cells = [figures[0]["chance"], *(figure["value"] for figure in figures)]
        rows.append([f"{task}: {name}", *("" if cell is None else f"{100 * cell:.1f}" for cell in cells)])
    table = format_table(["", "chance", *alphas], rows)
    return f"per cent by alpha (0: base, 1: tuned)\n{table}"


def draw_sweep(summary: Mapping[str, Any], path: str | Path) -> Path:
    """
    Draws the headline metrics over alpha with their 95 % intervals: one panel for each kind of metric of each task.

    Args:
        summary: What [`sweep`] returns.
        path: PNG to write.

    Returns:
        `path`.

    Raises:
        ValueError: if no metric is one of the headlines.
        ImportError: if matplotlib is not installed.
    """
    panels: dict[str, list[SweepCurve]] = {}
    for (task, name), figures in _headlines(summary).items():
        kind, _, rest = name.partition("/")
        curve = SweepCurve(
            label=_label(rest),
            values=[figure["value"] for figure in figures],
            lows=[figure["low"] for figure in figures],
            highs=[figure["high"] for figure in figures],
        )
        panels.setdefault(f"{task}: {kind.replace('_', ' ')}", []).append(curve)
    if not panels:
        raise ValueError(f"figures must have one that ends in one of {HEADLINES}, but have not")
    return plot_sweep([result["alpha"] for result in summary["alphas"]], panels, path)


def _evaluate(args: argparse.Namespace, model: Any, output: Path) -> dict[str, Any]:
    """Evaluates one model and returns what its results.json holds."""
    settings = EvaluationSettings(
        model=str(model), tasks=task_names(args.tasks), output=output, **evaluation_settings(args)
    )
    results = evaluate_tasks(settings)
    # Only the first of several processes has results. A sweep runs in one process.
    assert results is not None
    return results


def _headlines(summary: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By task and name, one figure for each alpha."""
    return {
        (task, name): [one["tasks"][task]["figures"][name] for one in summary["alphas"]]
        for task, result in summary["alphas"][0]["tasks"].items()
        for name in result["figures"]
        if name.endswith(HEADLINES) and "[" not in name and not set(NOT_OF_THE_MODEL) & set(name.split("/"))
    }


def _label(name: str) -> str:
    return name.replace("/", " ").replace("_", " ").replace("cls", "CLS")
