"""Reports an evaluation: metrics with their chance level and interval, tables of them, and results.json."""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..files import write_bytes, write_json, write_text
from ..visualize import tables
from .intervals import bootstrap_intervals
from .metric_names import MetricName


logger = logging.getLogger(__name__)

SCHEMA = 3
"""Version of results.json, see docs/evaluation.md."""
SKIPPED_FILE = "skipped.jsonl"
TABLE_HEADER = ("", "value", "95 % interval", "chance", "n")


@dataclass(frozen=True)
class Metric:
    """One reported number: a share in [0, 1], or a rank."""

    name: MetricName
    value: float
    chance: float | None = None
    """Value for a model that scores everything alike."""
    low: float | None = None
    """Lower end of the 95 % bootstrap interval; `None` if there is no interval, as for a median."""
    high: float | None = None
    """Upper end of the interval."""
    count: int = 0
    """Number of queries, groups or phrases that the value is the mean of."""
    values_I: Tensor | None = field(default=None, repr=False, compare=False)
    """(I,) the values that `value` is the mean of, for a comparison item by item."""
    cluster_index_I: Tensor | None = field(default=None, repr=False, compare=False)
    """(I,) int64: the image of each value."""


def mean_metric(
    name: MetricName,
    values_I: Tensor,
    *,
    chance: float | None = None,
    cluster_index_I: Tensor | None = None,
    seed: int = 0,
) -> Metric:
    """
    Returns the mean of values with its bootstrap interval.

    Args:
        name: Name of the metric.
        values_I: (I,) one value per query, group or phrase.
        chance: Value for a model that scores everything alike.
        cluster_index_I: (I,) int64, the image of each value: values of one image are resampled together.
        seed: Seed of the bootstrap.
    """
    (metric,) = mean_metrics([name], values_I[None], chances=[chance], cluster_index_I=cluster_index_I, seed=seed)
    return metric


def mean_metrics(
    names: Sequence[MetricName],
    values_NI: Tensor,
    *,
    chances: Sequence[float | None],
    cluster_index_I: Tensor | None = None,
    seed: int = 0,
) -> list[Metric]:
    """
    Returns the means of N metrics over the same items with their bootstrap intervals, for which all are resampled once.

    Args:
        names: Names of the metrics.
        values_NI: (N, I) the values of each.
        chances: Their values for a model that scores everything alike.
        cluster_index_I, seed: As for [`mean_metric`].
    """
    intervals = bootstrap_intervals(values_NI, cluster_index_I, seed=seed)
    metrics = []
    for name, values_I, chance, (low, high) in zip(names, values_NI, chances, intervals, strict=True):
        metric = Metric(
            name=name,
            value=float(values_I.double().mean()),
            chance=chance,
            low=low,
            high=high,
            count=len(values_I),
            values_I=values_I,
            cluster_index_I=cluster_index_I,
        )
        metrics.append(metric)
    return metrics


def metrics_to_json(metrics: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """Returns a record of each metric under its name, without the values that it is the mean of."""
    records = {}
    for metric in metrics:
        records[str(metric.name)] = {
            "value": metric.value,
            "chance": metric.chance,
            "low": metric.low,
            "high": metric.high,
            "count": metric.count,
            "name": metric.name.to_json(),
        }
    return records


def format_table(task: str, result: Mapping[str, Any]) -> str:
    """
    Formats the metrics of one task as a plain-text table, shares in per cent, below a line with its counts.

    Args:
        task: Heading of the table.
        result: Result of the task as in results.json.
    """
    counts = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in result["counts"].items())
    rows = [_table_row(key, record) for key, record in result["figures"].items()]
    return f"{task} ({result['protocol']}; {counts})\n{tables.format_table(TABLE_HEADER, rows)}"


def format_headline(task: str, result: Mapping[str, Any]) -> str:
    """
    Formats what matters most of a task on one line: R@1 in both directions, or else its first metric.

    Args:
        task: Name of the task.
        result: Result of the task as in results.json.
    """
    figures = result["figures"]
    if not figures:
        return f"{task}: nothing was measured"
    keys = list(figures)[:1]
    recalls = [key for key, record in figures.items() if record["name"]["metric"] == "R@1"]
    if recalls:
        first = _probe_and_score(figures[recalls[0]])
        keys = [key for key in recalls if _probe_and_score(figures[key]) == first]
    parts = []
    for key in keys:
        row = _table_row(key, figures[key])
        chance = f" (chance {row[3]})" if row[3] else ""
        parts.append(f"{key} {row[1]}{chance}")
    return f"{task}, in per cent: {', '.join(parts)}"


def _probe_and_score(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["name"]["probe"], record["name"]["score"]


def format_side_by_side(
    results: Mapping[str, Mapping[str, Any]], names: Mapping[str, str | Sequence[str]], heading: str = ""
) -> str:
    """
    Formats some metrics of several models side by side, in per cent with 95 % intervals, as a plain-text table.

    Args:
        results: For the heading of each column, what [`evaluate`] returned for that model, on the same rows.
        names: For the label of each line, the key of the metric that it shows. Of several keys, each model shows the
            highest value that it has. A model that has none of them shows a dash.
        heading: Heading of the column of labels.
    """
    rows = []
    for label, keys in names.items():
        keys = [keys] if isinstance(keys, str) else keys
        found = [_best_record(result["figures"], keys) for result in results.values()]
        chances = [record["chance"] for record in found if record is not None]
        chance = f"{100 * max(chances):.1f}" if chances else "–"
        rows.append([label, chance, *map(_cell_with_interval, found)])
    return tables.format_table((heading, "chance", *results), rows)


def _best_record(figures: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any] | None:
    """Returns the record with the highest value among those of some keys, or `None` if none of them is there."""
    records = [figures[key] for key in keys if key in figures]
    return max(records, key=lambda record: record["value"], default=None)


def _cell_with_interval(record: Mapping[str, Any] | None) -> str:
    """Formats a share in per cent; its interval is in whole per cent, so that a line fits a terminal."""
    if record is None:
        return "–"
    return f"{100 * record['value']:.1f} ({100 * record['low']:.0f}–{100 * record['high']:.0f})"


def format_markdown(results: Mapping[str, Any]) -> str:
    """Formats a results.json as Markdown: for each task a heading and a table."""
    model, environment = results["model"], results["environment"]
    lines = [
        f"# {model['name']}",
        "",
        f"Weights {model['sha256'][:16]}, {_versions(environment)}. Shares in per cent.",
    ]
    for name, task in results["tasks"].items():
        counts = ", ".join(f"{number} {counted.replace('_', ' ')}" for counted, number in task["counts"].items())
        protocol = f"{task['protocol']} ({task['protocol_hash']}), {task['rules']['dtype']}"
        if task["environment"] != environment:
            # The task was measured by an earlier run, on another machine or with other versions.
            protocol = f"{protocol}, {_versions(task['environment'])}"
        rows = [_table_row(key, record) for key, record in task["figures"].items()]
        table = tables.format_markdown_table(TABLE_HEADER, rows, is_padded=False)
        lines += ["", f"## {name}", "", f"{protocol}: {counts}.", "", table]
    return "\n".join(lines) + "\n"


def write_results(results: Mapping[str, Any], output_dir: str | os.PathLike[str]) -> Path:
    """
    Writes results.json and results.md into a directory, which is created if it is missing. Neither is ever half there.

    If rows were skipped, `skipped.jsonl` lists them: task, id, file, line and reason.

    Returns:
        The path of results.json.
    """
    folder = Path(output_dir)
    lines = _lines_of_skipped(results["tasks"])
    if lines:
        write_text(folder / SKIPPED_FILE, lines)
    else:
        (folder / SKIPPED_FILE).unlink(missing_ok=True)
    write_text(folder / "results.md", format_markdown(results))
    return write_json(results, folder / "results.json")


def _lines_of_skipped(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the lines of skipped.jsonl: the rows that tasks have left out."""
    lines = []
    for name, task in tasks.items():
        for row in task.get("skipped", ()):
            lines.append(json.dumps({"task": name, **row}) + "\n")
    return "".join(lines)


def read_results(output_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what results.json of a directory holds; `None` if it is missing, damaged or of another schema."""
    path = Path(output_dir) / "results.json"
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] == SCHEMA and isinstance(results["model"], Mapping):
            return {**results, "tasks": _whole_tasks(results, path)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Not JSON, or not an object: treated like another schema.
        pass
    logger.warning("%s is not of this version of beta-clip evaluate: it is replaced", path)
    return None


def _whole_tasks(results: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the tasks of a results.json that can be written again; the others are named."""
    tasks = {}
    for name, task in results["tasks"].items():
        try:
            format_markdown({**results, "tasks": {name: task}})
            _lines_of_skipped({name: task})
            tasks[name] = task
        # Whoever has changed the file may have broken it in any way.
        except Exception as error:
            logger.warning("%s: the result of %s is damaged (%r): it is left out", path, name, error)
    return tasks


def write_values(metrics: Iterable[Metric], output_dir: str | os.PathLike[str], task: str) -> Path:
    """
    Writes `values/TASK.safetensors`, which a comparison of two models item by item needs.

    For each metric that is a mean it holds the values (I,) under the name of the metric, float32, and the image (I,) of
    each value under `NAME#cluster`, int64.

    Returns:
        The path of the file.
    """
    values: dict[str, Tensor] = {}
    clusters: dict[str, Tensor] = {}
    for metric in metrics:
        if metric.values_I is not None:
            values[str(metric.name)] = metric.values_I.float()
        if metric.cluster_index_I is not None:
            # Several metrics share one tensor, which safetensors refuses to store twice.
            clusters[cluster_key(metric.name)] = metric.cluster_index_I.clone()
    return write_bytes(values_path(output_dir, task), save(values | clusters))


def values_path(output_dir: str | os.PathLike[str], task: str) -> Path:
    """Returns where the values of a task are."""
    return Path(output_dir) / "values" / f"{task}.safetensors"


def cluster_key(name: MetricName | str) -> str:
    """Returns the key under which `values/TASK.safetensors` holds the images of the values of a metric."""
    return f"{name}#cluster"


def _table_row(key: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of one metric, as in `TABLE_HEADER`."""
    scale = 100
    if MetricName.from_record(key, record).is_rank:
        scale = 1

    def cell(number: float | None) -> str:
        return "" if number is None else f"{scale * number:.1f}"

    interval = ""
    if record["low"] is not None:
        interval = f"{cell(record['low'])} – {cell(record['high'])}"
    return key, cell(record["value"]), interval, cell(record["chance"]), str(record["count"])


def _versions(environment: Mapping[str, str]) -> str:
    return f"{environment['hardware']}, torch {environment['torch']}, transformers {environment['transformers']}"
