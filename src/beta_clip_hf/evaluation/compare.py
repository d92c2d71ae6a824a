"""
`beta-clip compare`: is one model better than another? Differences between two results, item by item.

Both models were asked the same questions, so each question has a difference of its own: their mean has a far narrower
interval than the two figures have, as what is hard for one model is mostly hard for the other.

Letters: N items of a figure: queries, groups or phrases.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..files import write_json
from .metrics import bootstrap_interval
from .results import SCHEMA


logger = logging.getLogger(__name__)

SAME_IN_BOTH = ("protocol", "data_hash", "subset")
ROUNDING = 1e-5  # values are kept in float32
MARK = "*"


@dataclass(frozen=True)
class Difference:
    """One figure of two results. Shares are in [0, 1]; a rank is better where it is lower."""

    a: float
    b: float
    difference: float
    """b - a."""
    low: float | None = None
    high: float | None = None
    """The ends of the 95 % interval of the difference; `None` for a figure that is no mean, or of one image only."""
    count: int = 0
    """Items."""
    clusters: int = 0
    """Images, which are resampled whole."""
    clusters_changed: int = 0
    """Images of which any item differs between the two."""
    excludes_zero: bool = False
    """Whether the interval does."""


def compare(
    path_a: str | Path, path_b: str | Path, *, tasks: Sequence[str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """
    The differences B - A of all figures that two results of `beta-clip evaluate` have in common, with the interval of a
    paired bootstrap: images are drawn, each with the items of both models.

    Args:
        path_a, path_b: Each a results.json, with its `values/` beside it, or the directory of both.
        tasks: Which tasks to compare; by default those that both have.
        seed: Of the bootstrap.

    Returns:
        A dict, ready for JSON, of `schema`, `a` and `b` (path and model), `seed` and `tasks`: by task what is the same
        in both (protocol, the hash of the data), `dtypes` of the two models, `figures` (by name the fields of a
        [`Difference`]) and `left_out`, the figures that only one of the two has.

    Raises:
        ValueError: where a file is not of `beta-clip evaluate`, there is no task to compare, or a task differs in its
            protocol, its data or its items.
        FileNotFoundError: where a file is missing.
    """
    path_a, path_b = (Path(path) / "results.json" if Path(path).is_dir() else Path(path) for path in (path_a, path_b))
    a, b = _read(path_a), _read(path_b)
    if tasks is None:
        tasks = [task for task in a["tasks"] if task in b["tasks"]]
        if not tasks:
            raise ValueError(f"the results must have a task in common, but have {_names(a)} and {_names(b)}")
    for task in tasks:
        for path, results in ((path_a, a), (path_b, b)):
            if task not in results["tasks"]:
                raise ValueError(f"tasks must be of those in {path}, {_names(results)}, but one is {task!r}")
    return {
        "schema": 1,
        "a": {"path": str(path_a), "model": a["model"]},
        "b": {"path": str(path_b), "model": b["model"]},
        "seed": seed,
        "tasks": {
            task: _compare_task(
                task,
                (a["tasks"][task], _values(path_a, task)),
                (b["tasks"][task], _values(path_b, task)),
                seed,
            )
            for task in tasks
        },
    }


Side = tuple[Mapping[str, Any], Mapping[str, Tensor]]
"""One result of a task: what results.json says, and its values."""


def _compare_task(task: str, a: Side, b: Side, seed: int) -> dict[str, Any]:
    for name in SAME_IN_BOTH:
        if a[0].get(name) != b[0].get(name):
            raise ValueError(
                f"{name} of task {task} must be the same in both results, but is {a[0].get(name)!r} and "
                f"{b[0].get(name)!r}"
            )
    rules_a, rules_b = a[0]["rules"], b[0]["rules"]
    differing = [name for name in {**rules_a, **rules_b} if rules_a.get(name) != rules_b.get(name)]
    hash_a, hash_b = a[0]["protocol_hash"], b[0]["protocol_hash"]
    if hash_a != hash_b and differing != ["dtype"]:
        which = f", with other rules of {', '.join(differing)}" if differing else ""
        raise ValueError(
            f"protocol_hash of task {task} must be the same in both results, but is {hash_a!r} and {hash_b!r}{which}"
        )
    in_a, in_b = a[0]["figures"], b[0]["figures"]
    return {
        **{name: a[0].get(name) for name in SAME_IN_BOTH},
        "dtypes": [rules_a["dtype"], rules_b["dtype"]],
        "figures": {name: asdict(_difference(task, name, a, b, seed)) for name in in_a if name in in_b},
        "left_out": [name for name in (*in_a, *in_b) if not (name in in_a and name in in_b)],
    }


def _difference(task: str, name: str, a: Side, b: Side, seed: int) -> Difference:
    value_a, value_b = (float(side[0]["figures"][name]["value"]) for side in (a, b))
    count_a, count_b = (side[0]["figures"][name]["count"] for side in (a, b))
    if count_a != count_b:
        raise ValueError(f"{name} of task {task} must be of the same items in both, but has {count_a} and {count_b}")
    if name not in a[1] or name not in b[1]:
        return Difference(value_a, value_b, value_b - value_a, count=count_a)
    values_a, clusters_a = _items(task, name, a)
    values_b, clusters_b = _items(task, name, b)
    if not torch.equal(clusters_a, clusters_b):
        raise ValueError(f"{name} of task {task} must be of the same items in both, but their images differ")
    gains_N = values_b - values_a
    clusters, cluster_N = clusters_a.unique(return_inverse=True)
    low, high = bootstrap_interval(gains_N, cluster_N, seed=seed) if len(clusters) > 1 else (None, None)
    return Difference(
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        low=low,
        high=high,
        count=count_a,
        clusters=len(clusters),
        clusters_changed=len(cluster_N[gains_N != 0].unique()),
        excludes_zero=low is not None and high is not None and (low > 0 or high < 0),
    )


def _items(task: str, name: str, side: Side) -> tuple[Tensor, Tensor]:
    """(N,) float64 values and (N,) clusters of a figure, if they are those that the figure is the mean of."""
    figure, values_N = side[0]["figures"][name], side[1][name].double()
    clusters_N = side[1].get(f"{name}#cluster", torch.arange(len(values_N)))
    fits = values_N.shape == clusters_N.shape == (figure["count"],)
    if not fits or not abs(float(values_N.mean()) - figure["value"]) <= ROUNDING:
        raise ValueError(
            f"the values of {name} of task {task} must have the mean {figure['value']:.6g} and the number "
            f"{figure['count']} that results.json gives, but have {float(values_N.mean()):.6g} and {len(values_N)}: "
            "evaluate that model again"
        )
    return values_N, clusters_N


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a results.json, but is not JSON: {error}") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f"{path} must be a results.json of schema {SCHEMA}, but its schema is {schema}: evaluate again"
        )
    return results


def _values(path: Path, task: str) -> dict[str, Tensor]:
    values = path.parent / "values" / f"{task}.safetensors"
    if not values.is_file():
        raise FileNotFoundError(f"{values} must be there, as beta-clip evaluate leaves it beside results.json")
    return load_file(values)


def _names(results: Mapping[str, Any]) -> str:
    return ", ".join(results["tasks"]) or "none"


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The tables of a comparison as Markdown, shares in per cent, with what the reader has to know beneath."""
    model_a, model_b = (comparison[side]["model"].get("name", comparison[side]["path"]) for side in "ab")
    lines = [f"A: {model_a}", f"B: {model_b}", ""]
    marked = total = 0
    for task, one in comparison["tasks"].items():
        subset = ", a part of the benchmark only" if one["subset"] else ""
        dtypes = " and ".join(dict.fromkeys(one["dtypes"]))
        lines += [f"**{task}** ({one['protocol']}{subset}; {dtypes})", ""]
        rows: list[tuple[str, ...]] = [("", "A", "B", "B − A", "95 % interval", "", "n", "images changed")]
        rows += [_row(name, Difference(**figure)) for name, figure in one["figures"].items()]
        lines += [*_markdown(rows), ""]
        if one["left_out"]:
            lines += [f"In one of the two only: {', '.join(one['left_out'])}.", ""]
        intervals = [figure for figure in one["figures"].values() if figure["low"] is not None]
        total, marked = total + len(intervals), marked + sum(figure["excludes_zero"] for figure in intervals)
    lines.append(
        f"Shares and their differences in per cent. {MARK} marks an interval that excludes 0: {marked} of {total}. Of "
        "equally good models one in 20 does so too, and one in 10 where only 4 or 5 images changed."
    )
    return "\n".join(lines)


def _row(name: str, one: Difference) -> tuple[str, ...]:
    scale = 1 if name.endswith("rank") else 100
    interval = "" if one.low is None or one.high is None else f"{scale * one.low:+.1f} … {scale * one.high:+.1f}"
    figures = f"{scale * one.a:.1f}", f"{scale * one.b:.1f}", f"{scale * one.difference:+.1f}"
    changed = f"{one.clusters_changed} of {one.clusters}" if one.clusters else ""
    return name, *figures, interval, MARK if one.excludes_zero else "", str(one.count), changed


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns stand in line in plain text too: names to the left, the others to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip compare`."""
    parser.add_argument("a", metavar="A", help="results.json of a model, as beta-clip evaluate wrote it")
    parser.add_argument("b", metavar="B", help="results.json of another model, on the same data")
    parser.add_argument(
        "--tasks", metavar="NAMES", help="one or several, separated by commas (default: those that both have)"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="for the differences, as JSON")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the bootstrap")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Compares; the report are the differences, which are written to `args.output`, too, where that is asked."""
    tasks = args.tasks and [name.strip() for name in args.tasks.split(",")]
    comparison = compare(args.a, args.b, tasks=tasks, seed=args.seed)
    if args.output is not None:
        write_json(comparison, args.output)
        logger.info("the differences are in %s", args.output)
    return Report(comparison, format_comparison(comparison))
