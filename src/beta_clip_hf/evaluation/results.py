"""What an evaluation reports: figures with their chance level and interval, the table of them, and results.json."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..files import write_bytes, write_json, write_text
from .metrics import bootstrap_interval


logger = logging.getLogger(__name__)

SCHEMA = 3  # of results.json, see docs/evaluation.md


@dataclass(frozen=True)
class Figure:
    """One reported number: a share in [0, 1], or a rank."""

    value: float
    chance: float | None = None
    """What a model that scores everything alike gets."""
    low: float | None = None
    high: float | None = None
    """The ends of the 95 % bootstrap interval; `None` where there is none, as for a median."""
    count: int = 0
    """How many queries, groups or phrases it is the mean of."""
    values_N: Tensor | None = field(default=None, repr=False, compare=False)
    """(N,) the values that it is the mean of, for a comparison item by item; and"""
    cluster_index_N: Tensor | None = field(default=None, repr=False, compare=False)
    """(N,) int64: the image of each."""


def mean_figure(
    values_N: Tensor, *, chance: float | None = None, cluster_index_N: Tensor | None = None, seed: int = 0
) -> Figure:
    """The mean of (N,) values with its interval; values of one image (cluster) are resampled together."""
    low, high = bootstrap_interval(values_N, cluster_index_N, seed=seed)
    return Figure(float(values_N.double().mean()), chance, low, high, len(values_N), values_N, cluster_index_N)


def figures_to_json(figures: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    """The fields of each figure by name, without the values that it is the mean of."""
    names = [one.name for one in fields(Figure) if one.type in (float, int, float | None)]
    return {name: {field: getattr(figure, field) for field in names} for name, figure in figures.items()}


def format_table(task: str, result: Mapping[str, Any]) -> str:
    """
    The figures of one task as a plain-text table, shares in per cent, followed by its counts.

    Args:
        task: The heading.
        result: One task's result as in results.json.
    """
    header = ("", "value", "95 % interval", "chance", "n")
    rows = [header, *(_table_row(name, figure) for name, figure in result["figures"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    counts = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in result["counts"].items())
    return "\n".join([f"{task} ({result['protocol']}; {counts})", *(line.rstrip() for line in lines)])


def format_before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], names: Mapping[str, str], heading: str = ""
) -> str:
    """
    Some figures of two results of the same task beside their chance level, in per cent, as a plain-text table.

    Args:
        before, after: What [`evaluate`] returns, of an earlier and of a later model.
        names: What a row is called, and the figure that it shows.
        heading: Of the first column.
    """
    width = max(map(len, (heading, *names)))
    lines = [f"{heading:{width}}{'chance':>8}{'before':>8}{'after':>8}"]
    for label, name in names.items():
        old, new = before["figures"][name], after["figures"][name]
        cells = (new["chance"], old["value"], new["value"])
        lines.append(f"{label:{width}}" + "".join(f"{100 * cell:8.1f}" for cell in cells))
    return "\n".join(lines)


def format_markdown(results: Mapping[str, Any]) -> str:
    """All tasks of a results.json as Markdown: a heading and a table each."""
    model, environment = results["model"], results["environment"]
    lines = [
        f"# {model['name']}",
        "",
        f"Weights {model['sha256'][:16]}, {_versions(environment)}. Shares in per cent.",
    ]
    for name, task in results["tasks"].items():
        counts = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in task["counts"].items())
        was_elsewhere = task["environment"] != environment
        versions = f", {_versions(task['environment'])}" if was_elsewhere else ""
        protocol = f"{task['protocol']} ({task['protocol_hash']}), {task['rules']['dtype']}{versions}"
        lines += ["", f"## {name}", "", f"{protocol}: {counts}.", ""]
        lines += ["| | value | 95 % interval | chance | n |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_table_row(*figure))} |" for figure in task["figures"].items()]
    return "\n".join(lines) + "\n"


def _versions(environment: Mapping[str, str]) -> str:
    return f"{environment['hardware']}, torch {environment['torch']}, transformers {environment['transformers']}"


def write_results(results: Mapping[str, Any], output_dir: str | os.PathLike[str]) -> Path:
    """
    Writes results.json, and results.md, into the directory (made where missing) and returns the path of the first;
    never leaves half a file.
    """
    folder = Path(output_dir)
    write_text(folder / "results.md", format_markdown(results))
    return write_json(results, folder / "results.json")


def read_results(output_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What results.json of a directory holds, if it is there, whole and of this version's schema."""
    path = Path(output_dir) / "results.json"
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] == SCHEMA and {"model", "tasks"} <= set(results):
            return results
    except (ValueError, TypeError, KeyError):
        pass
    logger.warning("%s is not of this version of beta-clip evaluate: it is replaced", path)
    return None


def write_values(figures: Mapping[str, Figure], output_dir: str | os.PathLike[str], task: str) -> Path:
    """
    Writes `values/TASK.safetensors`: for each figure that is a mean the values (N,) under its name, float32, and under
    `NAME#cluster` the image (N,) of each, int64: what a comparison of two models item by item needs.
    """
    values = {name: figure.values_N.float() for name, figure in figures.items() if figure.values_N is not None}
    clusters = {
        f"{name}#cluster": figure.cluster_index_N.clone()  # several figures have the same
        for name, figure in figures.items()
        if figure.cluster_index_N is not None
    }
    return write_bytes(Path(output_dir) / "values" / f"{task}.safetensors", save(values | clusters))


def _table_row(name: str, figure: Mapping[str, Any]) -> tuple[str, ...]:
    def show(number: float | None) -> str:
        if number is None:
            return ""
        return f"{number:.1f}" if name.endswith("rank") else f"{100 * number:.1f}"

    interval = "" if figure["low"] is None else f"{show(figure['low'])} – {show(figure['high'])}"
    return name, show(figure["value"]), interval, show(figure["chance"]), str(figure["count"])
