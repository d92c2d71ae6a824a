"""What interpolation gains and loses: each alpha evaluated, as sweep.json, a table and a picture."""

import argparse
import io
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..evaluation import suite
from ..files import write_json
from ..visualize import COLOURS, FAINT, GRID, INK
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
    _import_matplotlib()
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
    picture = plot_sweep(summary, output / "sweep.png")
    logger.info("all figures are in %s, the curves in %s", output / "sweep.json", picture)
    return summary


def format_sweep(summary: Mapping[str, Any]) -> str:
    """The headline figures of a sweep as a plain-text table: a row for each, a column for each alpha, in per cent."""
    alphas = [f"{one['alpha']:g}" for one in summary["alphas"]]
    rows = [["", "chance", *alphas]]
    for (task, name), figures in _headlines(summary).items():
        cells = [figures[0]["chance"], *(figure["value"] for figure in figures)]
        rows.append([f"{task}: {name}", *("" if cell is None else f"{100 * cell:.1f}" for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(["per cent by alpha (0: base, 1: tuned)", *(line.rstrip() for line in lines)])


def plot_sweep(summary: Mapping[str, Any], path: str | Path) -> Path:
    """
    The headline figures over alpha with their 95 % intervals, a panel for each kind of figure of each task.

    Args:
        summary: see [`sweep`].
        path: where the PNG goes.

    Returns:
        `path`.

    Raises:
        ValueError: where no figure is one of the headlines.
        ImportError: without matplotlib.
    """
    figure_class, canvas_class = _import_matplotlib()
    panels: dict[tuple[str, str], dict[str, Any]] = {}
    for (task, name), figures in _headlines(summary).items():
        kind, _, rest = name.partition("/")
        panels.setdefault((task, kind), {})[rest] = figures
    if not panels:
        raise ValueError(f"figures must have one that ends in one of {HEADLINES}, but have not")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    picture = figure_class(figsize=(4.8 * columns, 4.4 * rows), layout="constrained", dpi=150)
    picture.get_layout_engine().set(w_pad=0.1, h_pad=0.12)  # inches
    picture.supxlabel("shaded: 95 % interval", x=0.99, ha="right", fontsize=9, color=FAINT)
    canvas_class(picture)
    alphas = [one["alpha"] for one in summary["alphas"]]
    tiles = picture.subplots(rows, columns, squeeze=False).flat
    for axes in tiles[len(panels) :]:
        axes.set_axis_off()
    for axes, ((task, kind), curves) in zip(tiles, panels.items(), strict=False):
        axes.set_title(f"{task}: {kind.replace('_', ' ')}", loc="left", color=INK, fontsize=11, fontweight="bold")
        _draw(axes, alphas, curves)
    picture.savefig(path, facecolor="white")
    return Path(path)


def _draw(axes: Any, alphas: Sequence[float], curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for index, (name, figures) in enumerate(curves.items()):
        colour, style = COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--"
        values = [100 * figure["value"] for figure in figures]
        axes.plot(alphas, values, style, color=colour, linewidth=1.8, marker="o", markersize=4, label=_label(name))
        low, high = ([100 * figure[end] for figure in figures] for end in ("low", "high"))
        axes.fill_between(alphas, low, high, color=colour, alpha=0.08, linewidth=0)
    axes.set_xlabel("α  (0: base, 1: tuned)", color=FAINT)
    axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    # Under the panel: inside, a legend of many curves would lie on some of them.
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 1}
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6, **place)


def _evaluate(args: argparse.Namespace, model: Any, output: Path) -> dict[str, Any]:
    """What `beta-clip evaluate` writes for one model. Its tables are left to results.json: there is one for each."""
    arguments = argparse.Namespace(**vars(args) | {"model": str(model), "output": str(output), "list_tasks": False})
    with redirect_stdout(io.StringIO()):
        suite.run(arguments)
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


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


def _import_matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "beta-clip-hf[eval]"') from error
    return Figure, FigureCanvasAgg
