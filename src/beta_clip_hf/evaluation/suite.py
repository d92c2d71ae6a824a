"""
Evaluates a model on tasks and writes results.json, which holds all that is needed to read its metrics.

`beta-clip evaluate` calls [`evaluate_tasks`]. To measure the rows of any data set, without files, see `evaluator.py`.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..data.rows import Row
from ..data.spelling import did_you_mean
from ..files import file_sha256
from ..inference.embedder import Embedder
from ..inference.identity import config_hash, environment, loaded_model_hash
from ..inference.models import dtype_of, load_model
from ..inference.processes import Processes, launched_processes, own_device
from ..inference.shards import Shards
from .benchmarks import BENCHMARKS, Part, Reading, find_benchmark, load_benchmark
from .evaluator import measure
from .metric_names import MetricName
from .pictures import draw_retrieval
from .probes import Measured
from .protocols import Protocol, protocol_of
from .results import SCHEMA, metrics_to_json, read_results, values_path, write_results, write_values
from .retrieval import TEXT_SETS
from .task_rows import first_rows, image_stamps, marked_name, rows_without
from .task_totals import TaskTotals
from .zero_shot import PLAIN_TEMPLATES, Classes


logger = logging.getLogger(__name__)

# Tasks of long captions are reported together with those of short captions: a model may gain on the long ones what it
# loses on the short ones.
LONG_TASKS = ("urban1k", "sharegpt4v_1k", "dci", "long_dci", "docci", "iiw")
SHORT_TASKS = ("coco", "flickr30k")
UNFINISHED_FOLDER = "unfinished"
"""Folder of the output directory that holds the work of tasks that are not finished."""

TaskListener = Callable[[str, Mapping[str, Any]], None]
"""Called with the name of a task and its result, as in results.json, when the task is finished."""


@dataclass(frozen=True)
class EvaluationSettings:
    """
    Settings of an evaluation: which model, which tasks, how, and where the results go.

    Args:
        model: Directory or Hub id of a β-CLIP, FG-CLIP, CLIP, SigLIP or another CLIP-like model.
        tasks: Names of the tasks, keys of `BENCHMARKS`.
        output: Directory for results.json, results.md, values and pictures. Finished tasks in it are kept.
        data: Folder or file of the data, or a folder that holds one named like each task. Generated tasks need none.
        batch_size: Number of images, and of texts, that are encoded at a time.
        num_workers: Number of processes that read images; 0 reads them in this process.
        device: Device to run on; `None` takes CUDA if it is available.
        dtype: Precision of the model: "float32", "bfloat16" or "float16".
        allow_subset: Whether an incomplete benchmark is measured, and marked so, instead of refused.
        limit: Number of images to measure of each task, the first ones; `None` measures all.
        seed: Seed of the bootstrap intervals.
        pictures: Whether to draw recall curves and pages of the texts that miss their images.
        conditioned: Whether to measure the text-conditioned pooler, if the model has a trained one.
        hierarchical: Whether to measure retrieval by sentences and phrases too.
        reading: How [`load_rows`] is to read the task `photos`: its arguments, such as `columns` and `split`.
    """

    model: str
    tasks: Sequence[str]
    output: str | os.PathLike[str]
    data: str | os.PathLike[str] | None = None
    batch_size: int = 32
    num_workers: int = 0
    device: str | None = None
    dtype: str = "float32"
    allow_subset: bool = False
    limit: int | None = None
    seed: int = 0
    pictures: bool = True
    conditioned: bool = True
    hierarchical: bool = True
    reading: Mapping[str, Any] | None = None


def evaluate_tasks(settings: EvaluationSettings, on_result: TaskListener | None = None) -> dict[str, Any] | None:
    """
    Evaluates a model on tasks and writes results.json after each of them.

    Several processes, started by torchrun, share the work. Each of them calls this function; the first one reads and
    writes the files.

    Args:
        settings: What to evaluate and how.
        on_result: Called in the first process after each task.

    Returns:
        What results.json holds; `None` in all processes but the first.

    Raises:
        ValueError: if a setting is wrong, or data of a task is missing. Nothing is loaded or written then.
    """
    if settings.limit is not None and settings.limit < 1:
        raise ValueError(f"limit must be at least 1, but is {settings.limit}")
    dtype_of(settings.dtype)
    device = own_device(settings.device)
    check_tasks(settings.tasks)
    # Missing data, and an output that cannot be written, are reported before a model is loaded.
    readings = _read_tasks(settings)
    Path(settings.output).mkdir(parents=True, exist_ok=True)
    with launched_processes():
        evaluation = _Evaluation(settings, device)
        evaluation.run(readings, on_result)
    if evaluation.is_first:
        return evaluation.results
    return None


def check_tasks(names: Sequence[str]) -> None:
    """
    Checks that there are names of tasks, and no others.

    Raises:
        ValueError: if there is no name, or one is of no task.
    """
    if not names:
        raise ValueError("tasks must name at least one task, but are empty")
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(
                f"tasks must be of {', '.join(BENCHMARKS)}, but one is {name!r}{did_you_mean(name, BENCHMARKS)}"
            )


def describe_tasks() -> list[dict[str, str]]:
    """Returns what there is to know of each task, as strings: id, title, kind, source, licence, size and so on."""
    fields = ("id", "title", "kind", "source", "licence", "size", "layout", "protocol")
    descriptions = []
    for benchmark in BENCHMARKS.values():
        descriptions.append({field: getattr(benchmark, field) for field in fields})
    return descriptions


def _read_tasks(settings: EvaluationSettings) -> dict[str, Reading | None]:
    """
    Reads the annotations of all tasks, in the order in which they are measured.

    The value is `None` for generated tasks: their images are drawn in the size of the model, once it is loaded.
    """
    readings: dict[str, Reading | None] = {}
    data = settings.data
    if data is not None:
        data = Path(data)
    for name in settings.tasks:
        if BENCHMARKS[name].read is None:
            readings[name] = None
        else:
            readings[name] = load_benchmark(name, data, allow_subset=settings.allow_subset, reading=settings.reading)
    for name in _short_tasks_beside(settings.tasks, data):
        try:
            readings[name] = load_benchmark(name, data, allow_subset=settings.allow_subset)
        except ValueError as error:
            # Nobody has asked for this task, so a part of its data is no reason to stop.
            logger.warning("short captions of %s are left out: %s", name, error)
    return readings


def _short_tasks_beside(names: Sequence[str], data: Path | None) -> list[str]:
    """Returns the tasks of short captions to report beside those of long captions, as far as their data is there."""
    has_long, has_short = set(names) & set(LONG_TASKS), set(names) & set(SHORT_TASKS)
    if data is None or not has_long or has_short:
        return []
    return [name for name in SHORT_TASKS if find_benchmark(name, data)]


class _Evaluation:
    """One model on its tasks. Each of several processes has one; the first process reads and writes the results."""

    def __init__(self, settings: EvaluationSettings, device: torch.device) -> None:
        self.settings = settings
        self.output = Path(settings.output)
        self.processes = Processes()
        self.is_first = self.processes.rank == 0
        # One progress bar is enough.
        if not self.is_first:
            transformers_logging.disable_progress_bar()
        self.loaded = load_model(settings.model, device, dtype_of(settings.dtype))
        self.conditioned = settings.conditioned and self.loaded.has_trained_pooler
        if settings.conditioned and not self.conditioned and self.is_first:
            logger.warning("%s has no trained pooler: there are no text-conditioned metrics", settings.model)
        model = self.loaded.model
        self.results: dict[str, Any] = {
            "schema": SCHEMA,
            "model": {
                "name": settings.model,
                "sha256": loaded_model_hash(settings.model, model),
                "config_sha256": config_hash(model, self.loaded.processor),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            },
            "environment": environment(device),
            "settings": {
                "data": None if settings.data is None else str(settings.data),
                "batch_size": settings.batch_size,
                "dtype": settings.dtype,
                "limit": settings.limit,
                "seed": settings.seed,
            },
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "tasks": {},
        }

    def run(self, readings: Mapping[str, Reading | None], on_result: TaskListener | None) -> None:
        """Measures one task after the other, and writes results.json after each."""
        finished = None
        if self.is_first:
            finished = self._finished_tasks()
        self.results["tasks"] = self.processes.broadcast(finished)
        for name, reading in readings.items():
            if reading is None:
                reading = load_benchmark(name, image_size=self.loaded.image_size)
            key = self._key(name, reading)
            result = self.results["tasks"].get(name, {})
            is_finished = result.get("key") == key and self._has_files(name, result)
            # Files may look different to other processes, so the first one decides.
            if not self.processes.broadcast(is_finished):
                result = self._measure_task(name, reading, key)
            elif self.is_first:
                logger.info("%s is finished: its results are kept", name)
            self.results["tasks"][name] = result
            if self.is_first:
                write_results(self.results, self.output)
                # Not before the results are written: a run that is stopped here would lose the work.
                _remove_unfinished(self.output / UNFINISHED_FOLDER, name)
                if on_result is not None:
                    on_result(name, result)
        if self.is_first:
            logger.info("results are in %s", self.output / "results.json")

    def _finished_tasks(self) -> dict[str, Any]:
        """Returns the tasks that earlier runs have finished with this very model."""
        earlier = read_results(self.output)
        if earlier is None:
            return {}
        for name in ("sha256", "config_sha256"):
            if earlier["model"].get(name) != self.results["model"][name]:
                logger.info("%s holds results of another model: they are replaced", self.output)
                return {}
        # Whether a task is the same is decided later, by its key.
        return earlier["tasks"]

    def _key(self, name: str, reading: Reading) -> str:
        """Returns a hash of everything that changes the result of a task. No image is decoded for it."""
        settings, model = self.settings, self.results["model"]
        parts: list[Any] = [
            model["sha256"],
            model["config_sha256"],
            self.results["environment"],
            protocol_of(name, settings.dtype).hash,
            settings.seed,
            settings.limit,
            self.conditioned,
            settings.hierarchical,
            reading.key,
            # Results whose metrics are described in another way are measured again.
            [field.name for field in fields(MetricName)],
        ]
        for part in reading.parts:
            parts.extend(image_stamps(part.rows))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _has_files(self, name: str, result: Mapping[str, Any]) -> bool:
        """Tells whether the files of a result are still there: its values, as written, and pictures if wanted."""
        pictures = result.get("pictures")
        if pictures is None and self.settings.pictures:
            return False
        values = values_path(self.output, name)
        if not values.is_file() or file_sha256(values) != result.get("values_sha256"):
            return False
        return all((self.output / file).is_file() for file in pictures or ())

    def _measure_task(self, name: str, reading: Reading, key: str) -> dict[str, Any]:
        """Measures a task and returns its record for results.json."""
        start = time.perf_counter()
        protocol = protocol_of(name, self.settings.dtype)
        # A run that was stopped finds its shards here again. The key tells apart all that changes them.
        folder = self.output / UNFINISHED_FOLDER / f"{name}-{key[:16]}"
        totals = TaskTotals()
        pictures: list[Path] = []
        for part in reading.parts:
            rows = first_rows(part.rows, self.settings.limit)
            measured = self._measure_part(name, part, rows, protocol, folder)
            totals.add(part, measured)
            if self.is_first and self.settings.pictures:
                pictures += self._draw_part(name, part, rows, measured)
        values_sha256 = None
        if self.is_first:
            values_sha256 = file_sha256(write_values(totals.metrics, self.output, name))
        picture_names = None
        if self.settings.pictures:
            picture_names = [path.relative_to(self.output).as_posix() for path in pictures]
        return {
            "protocol": marked_name(protocol, reading, self.settings.limit, totals.num_unreadable),
            "protocol_hash": protocol.hash,
            "rules": protocol.rules,
            "subset": reading.is_subset or self.settings.limit is not None or totals.num_unreadable > 0,
            "figures": metrics_to_json(totals.metrics),
            **totals.to_json(),
            "key": key,
            "pictures": picture_names,
            "values_sha256": values_sha256,
            "environment": self.results["environment"],
            "settings": self.results["settings"],
            "seconds": round(time.perf_counter() - start, 1),
        }

    def _measure_part(self, name: str, part: Part, rows: Sequence[Row], protocol: Protocol, folder: Path) -> Measured:
        """Measures the rows of one part of a task."""
        embedder = Embedder(
            self.loaded.model,
            self.loaded.processor,
            batch_size=self.settings.batch_size,
            num_workers=self.settings.num_workers,
            squash=protocol.squash or part.squash,
            shards=Shards(folder / (part.name or "all"), self.processes),
        )
        classes = None
        if part.class_names:
            classes = Classes(part.class_names, part.templates or PLAIN_TEMPLATES)
        text_sets: tuple[str, ...] = TEXT_SETS
        if name in SHORT_TASKS:
            # The long caption of these tasks would be all short captions in a row, which nobody reports.
            text_sets = ("short",)
        return measure(
            embedder,
            rows,
            text_sets=text_sets,
            classes=classes,
            conditioned=self.conditioned,
            hierarchical=self.settings.hierarchical,
            seed=self.settings.seed,
        )

    def _draw_part(self, name: str, part: Part, rows: Sequence[Row], measured: Measured) -> list[Path]:
        """Draws the pictures of one part of a task, and returns their paths."""
        stem = name
        if part.name:
            stem = f"{name}-{part.name}"
        readable_rows = rows_without(rows, {index for index, _ in measured.lost})
        return draw_retrieval(measured.reports, readable_rows, self.output / "pictures", stem)


def _remove_unfinished(folder: Path, task: str) -> None:
    """Removes the shards of a finished task, also those that an earlier run with other settings left."""
    for unfinished in folder.glob(f"{task}-*"):
        shutil.rmtree(unfinished)
    if folder.is_dir() and not os.listdir(folder):
        folder.rmdir()
