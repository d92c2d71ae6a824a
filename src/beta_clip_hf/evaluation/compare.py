"""
Compares two results on the same data, item by item: is one model better than the other?

Both models were asked the same questions, so each question has a difference of its own. The mean of the differences has
a far narrower interval than the two metrics have, because what is hard for one model is mostly hard for the other.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..files import naming_errors
from ..visualize.tables import format_markdown_table
from .intervals import bootstrap_interval
from .metric_names import MetricName
from .results import SCHEMA, cluster_key, values_path


SAME_IN_BOTH = ("protocol", "data_hash", "subset")
# Values are stored in float32, so their mean differs from the metric by rounding.
ROUNDING = 1e-5
MARK = "*"
TABLE_HEADER = ("", "A", "B", "B − A", "95 % interval", "", "n", "images changed")


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between two results. Shares are in [0, 1]; a rank is better if it is lower."""

    a: float
    b: float
    difference: float
    """b - a."""
    low: float | None = None
    """Lower end of the 95 % interval; `None` for a metric that is no mean, or that is of one image only."""
    high: float | None = None
    """Upper end of the interval."""
    count: int = 0
    """Number of items."""
    clusters: int = 0
    """Number of images, which are resampled whole."""
    clusters_changed: int = 0
    """Number of images of which any item differs between the two results."""
    excludes_zero: bool = False
    """Whether the interval excludes 0."""


class _Result(NamedTuple):
    """Holds the result of one task on one side of the comparison."""

    record: Mapping[str, Any]
    """What results.json says of the task."""
    values: Mapping[str, Tensor]
    """Values of its items, as `write_values` has written them."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.record["figures"]


class _Items(NamedTuple):
    """Holds the items that a metric is the mean of."""

    values_I: Tensor
    """(I,) float64."""
    cluster_index_I: Tensor
    """(I,) int64: the image of each item."""


def compare(
    path_a: str | Path, path_b: str | Path, *, tasks: Sequence[str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """
    Computes the differences B - A of all metrics that two results of `beta-clip evaluate` have in common.

    The intervals are those of a paired bootstrap: images are drawn, each with the items of both models.

    Args:
        path_a: A results.json with its `values/` beside it, or the directory of both.
        path_b: The same of the other model.
        tasks: Tasks to compare; by default those that both results have.
        seed: Seed of the bootstrap.

    Returns:
        A dict, ready for JSON, of `schema`, `a` and `b` (path and model), `seed` and `tasks`. Each task has what is the
        same in both (protocol, hash of the data), the `dtypes` of the two models, `figures` (for each metric by name,
        the fields of a [`Difference`] and the parts of its `name`) and `left_out`, the metrics that only one result
        has.

    Raises:
        ValueError: if a file is not of `beta-clip evaluate`, there is no task to compare, or a task differs in its
            protocol, its data or its items.
        FileNotFoundError: if a file is missing.
    """
    path_a, path_b = _results_path(path_a), _results_path(path_b)
    with naming_errors(f"{path_a} and {path_b}", "results of beta-clip evaluate"):
        return _compare_files(path_a, path_b, tasks, seed)


def _compare_files(path_a: Path, path_b: Path, tasks: Sequence[str] | None, seed: int) -> dict[str, Any]:
    a, b = _read(path_a), _read(path_b)
    if tasks is None:
        tasks = [task for task in a["tasks"] if task in b["tasks"]]
        if not tasks:
            raise ValueError(f"the results must have a task in common, but have {_names(a)} and {_names(b)}")
    # All names are checked before the first bootstrap, which takes a while.
    for task in tasks:
        for path, results in ((path_a, a), (path_b, b)):
            if task not in results["tasks"]:
                raise ValueError(f"tasks must be of those in {path}, {_names(results)}, but one is {task!r}")
    compared = {}
    for task in tasks:
        result_a = _Result(a["tasks"][task], _read_values(path_a, task))
        result_b = _Result(b["tasks"][task], _read_values(path_b, task))
        compared[task] = _compare_task(task, result_a, result_b, seed)
    return {
        "schema": 1,
        "a": {"path": str(path_a), "model": a["model"]},
        "b": {"path": str(path_b), "model": b["model"]},
        "seed": seed,
        "tasks": compared,
    }


def _results_path(path: str | Path) -> Path:
    path = Path(path)
    return path / "results.json" if path.is_dir() else path


def _compare_task(task: str, a: _Result, b: _Result, seed: int) -> dict[str, Any]:
    _check_comparable(task, a.record, b.record)
    common = [key for key in a.metrics if key in b.metrics]
    differences = {}
    for key in common:
        name = MetricName.from_record(key, a.metrics[key])
        differences[key] = {**asdict(_difference(task, key, a, b, seed)), "name": name.to_json()}
    return {
        **{field: a.record.get(field) for field in SAME_IN_BOTH},
        "dtypes": [a.record["rules"]["dtype"], b.record["rules"]["dtype"]],
        "figures": differences,
        "left_out": [key for key in (*a.metrics, *b.metrics) if key not in differences],
    }


def _check_comparable(task: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Checks that two results of a task are about the same questions. Only the precision of the models may differ."""
    for field in SAME_IN_BOTH:
        if a.get(field) != b.get(field):
            hint = ""
            if field == "data_hash":
                hint = ": they are of other photos or texts; evaluate both models with the same --data"
            raise ValueError(
                f"{field} of task {task} must be the same in both results, but is {a.get(field)!r} and {b.get(field)!r}"
                f"{hint}"
            )
    rules_a, rules_b = a["rules"], b["rules"]
    differing = [rule for rule in {**rules_a, **rules_b} if rules_a.get(rule) != rules_b.get(rule)]
    hash_a, hash_b = a["protocol_hash"], b["protocol_hash"]
    if hash_a != hash_b and differing != ["dtype"]:
        hint = f": these rules differ: {', '.join(differing)}" if differing else ""
        raise ValueError(
            f"protocol_hash of task {task} must be the same in both results, but is {hash_a!r} and {hash_b!r}{hint}"
        )


def _difference(task: str, key: str, a: _Result, b: _Result, seed: int) -> Difference:
    value_a, value_b = float(a.metrics[key]["value"]), float(b.metrics[key]["value"])
    count_a, count_b = a.metrics[key]["count"], b.metrics[key]["count"]
    if count_a != count_b:
        raise ValueError(f"{key} of task {task} must be of the same items in both, but has {count_a} and {count_b}")
    if key not in a.values or key not in b.values:
        # No mean, such as a median rank: there is nothing to resample.
        return Difference(value_a, value_b, value_b - value_a, count=count_a)
    items_a, items_b = _read_items(task, key, a), _read_items(task, key, b)
    if not torch.equal(items_a.cluster_index_I, items_b.cluster_index_I):
        raise ValueError(f"{key} of task {task} must be of the same items in both, but their images differ")
    gains_I = items_b.values_I - items_a.values_I
    # One difference per item, and the items of an image stay together.
    clusters, cluster_I = items_a.cluster_index_I.unique(return_inverse=True)
    low, high, excludes_zero = None, None, False
    # All resamples of a single image are the same.
    if len(clusters) > 1:
        low, high = bootstrap_interval(gains_I, cluster_I, seed=seed)
        excludes_zero = low > 0 or high < 0
    return Difference(
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        low=low,
        high=high,
        count=count_a,
        clusters=len(clusters),
        clusters_changed=len(cluster_I[gains_I != 0].unique()),
        excludes_zero=excludes_zero,
    )


def _read_items(task: str, key: str, result: _Result) -> _Items:
    """Returns the items of a metric, after a check that it is the mean of them."""
    metric = result.metrics[key]
    values_I = result.values[key].double()
    # Without images each item is a cluster of its own.
    cluster_index_I = result.values.get(cluster_key(key), torch.arange(len(values_I)))
    fits = values_I.shape == cluster_index_I.shape == (metric["count"],)
    mean = float(values_I.mean())
    # "not <=" is true of a NaN too.
    if not fits or not abs(mean - metric["value"]) <= ROUNDING:
        raise ValueError(
            f"the values of {key} of task {task} must have the mean {metric['value']:.6g} and the number "
            f"{metric['count']} that results.json gives, but have {mean:.6g} and {len(values_I)}: "
            "evaluate that model again"
        )
    return _Items(values_I, cluster_index_I)


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a results.json, but is not JSON: {error}") from error
    schema = None
    # A file of JSON may also hold a list.
    if isinstance(results, dict):
        schema = results.get("schema")
    if schema != SCHEMA:
        raise ValueError(
            f"{path} must be a results.json of schema {SCHEMA}, but its schema is {schema}: evaluate again"
        )
    for name in ("model", "tasks"):
        if not isinstance(results.get(name), dict):
            raise ValueError(f"{name} of {path} must be an object, but is missing or another value: evaluate again")
    return results


def _read_values(path: Path, task: str) -> dict[str, Tensor]:
    values = values_path(path.parent, task)
    if not values.is_file():
        raise FileNotFoundError(f"{values} must be there, as beta-clip evaluate leaves it beside results.json")
    return load_file(values)


def _names(results: Mapping[str, Any]) -> str:
    return ", ".join(results["tasks"]) or "none"


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Formats a comparison as Markdown tables, shares in per cent, with a note on how to read them below."""
    lines = []
    for side, letter in (("a", "A"), ("b", "B")):
        model = comparison[side]["model"].get("name", comparison[side]["path"])
        lines.append(f"{letter}: {model}")
    lines.append("")
    num_intervals = num_marked = 0
    for task, result in comparison["tasks"].items():
        lines += [*_format_task(task, result), ""]
        for difference in result["figures"].values():
            num_intervals += difference["low"] is not None
            num_marked += difference["excludes_zero"]
    lines.append(
        f"Shares and their differences in per cent. {MARK} marks an interval that excludes 0: {num_marked} of "
        f"{num_intervals}. Of equally good models one in 20 does so too, and one in 10 where only 4 or 5 images "
        "changed."
    )
    return "\n".join(lines)


def _format_task(task: str, result: Mapping[str, Any]) -> list[str]:
    """Returns the heading of a task, its table, and the metrics that only one result has."""
    subset = ""
    if result["subset"]:
        subset = ", a part of the benchmark only"
    dtypes = " and ".join(dict.fromkeys(result["dtypes"]))
    rows = [_table_row(key, record) for key, record in result["figures"].items()]
    lines = [
        f"**{task}** ({result['protocol']}{subset}; {dtypes})",
        "",
        format_markdown_table(TABLE_HEADER, rows),
    ]
    if result["left_out"]:
        lines += ["", f"In one of the two only: {', '.join(result['left_out'])}."]
    return lines


def _table_row(key: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    scale = 100
    if MetricName.from_record(key, record).is_rank:
        scale = 1
    interval = changed = ""
    if record["low"] is not None:
        interval = f"{scale * record['low']:+.1f} … {scale * record['high']:+.1f}"
    if record["clusters"]:
        changed = f"{record['clusters_changed']} of {record['clusters']}"
    return (
        key,
        f"{scale * record['a']:.1f}",
        f"{scale * record['b']:.1f}",
        f"{scale * record['difference']:+.1f}",
        interval,
        MARK if record["excludes_zero"] else "",
        str(record["count"]),
        changed,
    )
