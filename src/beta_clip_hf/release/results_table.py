"""Evaluation results as a model card shows them: rows of a table, entries of its head, and a note."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from huggingface_hub import EvalResult

from ..evaluation.metric_names import MetricName


# The metrics that a card shows of each task.
SHOWN_RETRIEVAL = {
    ("cls", "image_to_text", "R@1"),
    ("cls", "text_to_image", "R@1"),
    ("all_pairs", "text_to_image", "R@1"),
}
SHOWN_LOCALISATION = {("attention", "pointing"), ("region", "grounding")}
SHOWN_ACCURACIES = {"accuracy", "top1"}
SHORT_CAPTION_TASKS = ("coco", "flickr30k")
LONG_CAPTIONS_ONLY = (
    "Retrieval with short captions (COCO, Flickr30k) was not measured: fine-tuning on long captions may have lost some "
    "of it."
)


class ShownMetric(NamedTuple):
    """A metric of the results that a card shows."""

    task: str
    protocol: str
    data: str
    """What it was measured on: the name of the data and, if it is recorded, the beginning of its hash."""
    name: MetricName
    metric: Mapping[str, Any]
    """Its `value`, `low`, `high`, `chance` and `count`, as in results.json."""


def shown_metrics(results: Mapping[str, Any]) -> Iterator[ShownMetric]:
    """Yields the metrics of a results.json that a card shows. There are none in an empty mapping."""
    for task, result in results.get("tasks", {}).items():
        data = _data_name(result, results)
        for key, metric in result["figures"].items():
            name = MetricName.from_record(key, metric)
            if _is_shown(name):
                yield ShownMetric(task, result["protocol"], data, name, metric)


def _data_name(result: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    settings = result.get("settings") or results.get("settings") or {}
    source = settings.get("data")
    # Of a local path the folders are nobody's business.
    name = f"`{PurePath(source).name}`" if source else "generated"
    digest = result.get("data_hash")
    return f"{name}, sha256 {digest[:12]}" if digest else name


def _is_shown(name: MetricName) -> bool:
    if name.direction:
        return (name.score, name.direction, name.metric) in SHOWN_RETRIEVAL
    if name.metric in SHOWN_ACCURACIES:
        return True
    # The heads of the pooler are too many for a card: their mean stands for them.
    return name.head is None and (name.score, name.metric) in SHOWN_LOCALISATION


def result_rows(results: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields the cells of each row of the table: task, protocol, metric, value, interval, chance, count and data."""
    for task, protocol, data, name, metric in shown_metrics(results):
        low, high = metric["low"], metric["high"]
        interval = ""
        if low is not None:
            interval = f"{_percent(low)} – {_percent(high)}"
        chance = ""
        if metric["chance"] is not None:
            chance = _percent(metric["chance"])
        yield [task, protocol, f"`{name}`", _percent(metric["value"]), interval, chance, f"{metric['count']:,}", data]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def eval_results(results: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Yields the entries of the card's head, which the Hub reads."""
    for task, protocol, data, name, metric in shown_metrics(results):
        task_type = "zero-shot-image-classification"
        # Only metrics of retrieval have a direction.
        if name.direction:
            task_type = "image-text-retrieval"
        yield EvalResult(
            task_type=task_type,
            dataset_type=task,
            dataset_name=protocol,
            dataset_args={"data": data},
            metric_type=str(name),
            metric_value=round(100 * metric["value"], 2),
        )


def results_note(results: Mapping[str, Any]) -> str:
    """Says what the results were measured on, and warns if no short captions were; empty without results."""
    if not results:
        return ""
    environment = results.get("environment", {})
    dtype = results.get("settings", {}).get("dtype")
    note = f"Measured on {environment.get('hardware')}, {dtype}, torch {environment.get('torch')}."
    if not _has_short_captions(results):
        note = f"{note} {LONG_CAPTIONS_ONLY}"
    return note


def _has_short_captions(results: Mapping[str, Any]) -> bool:
    if any(task in results["tasks"] for task in SHORT_CAPTION_TASKS):
        return True
    return any(shown.name.probe == "short" for shown in shown_metrics(results))


__all__ = ["ShownMetric", "eval_results", "result_rows", "results_note", "shown_metrics"]
