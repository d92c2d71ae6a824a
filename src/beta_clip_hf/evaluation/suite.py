"""`beta-clip evaluate`: a model, some tasks, and one results.json that says all that is needed to read its figures."""

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..data.rows import Row
from ..inference.embedder import Embedder
from ..inference.identity import config_hash, environment, image_digest, model_hash
from ..inference.models import load_model
from ..inference.processes import Processes, default_device, launched_processes, own_device
from ..inference.shards import Shards
from .benchmarks import BENCHMARKS, Benchmark, Reading, find_benchmark, format_benchmarks, load_benchmark
from .evaluator import measure
from .pictures import draw_retrieval
from .protocols import Protocol, protocol_of
from .results import SCHEMA, Figure, figures_to_json, format_table, read_results, write_results, write_values
from .retrieval import TEXT_SETS
from .zero_shot import PLAIN_TEMPLATES, Classes


logger = logging.getLogger(__name__)

# Tasks of long captions, and those beside which they are reported: a model may win the first and lose the second.
LONG_TASKS = ("urban1k", "sharegpt4v_1k", "dci", "long_dci", "docci", "iiw")
SHORT_TASKS = ("coco", "flickr30k")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip evaluate`."""
    parser.add_argument("--model", metavar="MODEL", help="directory or Hub id: β-CLIP, FG-CLIP, CLIP, SigLIP, SigLIP 2")
    parser.add_argument("--tasks", metavar="NAMES", help=f"one or several of {','.join(BENCHMARKS)}")
    parser.add_argument(
        "--data", metavar="DATA", help="folder or file of the data, or a folder that has one named like each task"
    )
    parser.add_argument("--output", metavar="DIR", help="for results.json, results.md, values and pictures")
    parser.add_argument("--list-tasks", action="store_true", help="say what each task is and needs, and stop")
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="images, and texts, at a time")
    parser.add_argument("--num-workers", metavar="N", type=int, default=0, help="processes that read images")
    parser.add_argument("--device", metavar="DEVICE", default=default_device(), help="cpu, cuda, cuda:1 or another")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the model")
    parser.add_argument("--allow-subset", action="store_true", help="measure what is there of a task; results say so")
    parser.add_argument("--limit", metavar="N", type=int, help="the first images only; the results say so")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the bootstrap intervals")
    parser.add_argument("--no-pictures", action="store_true", help="leave out the recall curves and the galleries")
    parser.add_argument("--no-conditioned", action="store_true", help="leave out the text-conditioned pooler")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Evaluates, writes the tables as they come, and results.json to `args.output`: that is the report."""
    if args.list_tasks:
        return Report([_described(benchmark) for benchmark in BENCHMARKS.values()], format_benchmarks())
    for name in ("model", "tasks", "output"):
        if not getattr(args, name):
            raise ValueError(f"{name} must be given, but is not: see beta-clip evaluate --help")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"limit must be at least 1, but is {args.limit}")
    device = own_device(args.device)
    names = chosen_tasks(args)
    # What is missing, or cannot be written, is said before a model is loaded. Scenes are drawn in the model's size.
    settings = {"data": args.data, "allow_subset": args.allow_subset}
    readings = {name: load_benchmark(name, **settings) for name in names if BENCHMARKS[name].read is not None}
    for name in beside_long_captions(names, args.data):
        try:
            readings[name] = load_benchmark(name, **settings)
        except ValueError as error:  # nobody has asked for it
            logger.warning("short captions of %s are left out: %s", name, error)
        else:
            names.append(name)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    with launched_processes():
        evaluation = _Run(args, device)
        evaluation.tasks(names, readings)
    return Report(evaluation.results if evaluation.is_first else None)


class _Run:
    """One model on its tasks. Every process of several has one; the first one reads and writes the results."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.args, self.processes = args, Processes()
        self.is_first = self.processes.rank == 0
        if not self.is_first:
            transformers_logging.disable_progress_bar()
        self.loaded = load_model(args.model, device, getattr(torch, args.dtype))
        if not self.loaded.has_trained_pooler and not args.no_conditioned and self.is_first:
            logger.warning("%s has no trained pooler: there are no text-conditioned figures", args.model)
        model = self.loaded.model
        self.results: dict[str, Any] = {
            "schema": SCHEMA,
            "model": {
                "name": args.model,
                "sha256": model_hash(model),
                "config_sha256": config_hash(model, self.loaded.processor),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            },
            "environment": environment(device),
            "settings": {name: getattr(args, name) for name in ("data", "batch_size", "dtype", "limit", "seed")},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "tasks": {},
        }

    def tasks(self, names: Sequence[str], readings: dict[str, Reading]) -> None:
        """All tasks, one after the other; results.json is written after each."""
        self.results["tasks"] = self.processes.broadcast(self._finished() if self.is_first else None)
        for name in names:
            reading = readings.get(name) or load_benchmark(name, image_size=self.loaded.image_size)
            key = self._key(name, reading)
            result = self.results["tasks"].get(name, {})
            is_finished = result.get("key") == key and self._has_files(name, result)
            if not self.processes.broadcast(is_finished):
                result = self._measured(name, reading, key)
            elif self.is_first:
                logger.info("%s is finished: its results are kept", name)
            self.results["tasks"][name] = result
            if self.is_first:
                path = write_results(self.results, self.args.output)
                sys.stdout.write(format_table(name, result) + "\n\n")
        if self.is_first:
            logger.info("results are in %s", path)

    def _has_files(self, name: str, result: dict[str, Any]) -> bool:
        """Whether what stands beside results.json is there, as far as it is wanted."""
        output = Path(self.args.output)
        files = [f"values/{name}.safetensors", *(result["pictures"] or ())]
        wanted = result["pictures"] is not None or self.args.no_pictures
        return wanted and all((output / file).is_file() for file in files)

    def _measured(self, name: str, reading: Reading, key: str) -> dict[str, Any]:
        start, protocol = time.perf_counter(), protocol_of(name, self.args.dtype)
        folder = Path(self.args.output) / "unfinished" / f"{name}-{key[:16]}"
        figures: dict[str, Figure] = {}
        counts: dict[str, int] = {}
        pictures: list[Path] = []
        data_hash = hashlib.sha256()
        for part in reading.parts:
            embedder = Embedder(
                self.loaded.model,
                self.loaded.processor,
                batch_size=self.args.batch_size,
                num_workers=self.args.num_workers,
                squash=protocol.squash or part.squash,
                shards=Shards(folder / (part.name or "all"), self.processes),
            )
            conditioned = self.loaded.has_trained_pooler and not self.args.no_conditioned
            rows = _first(part.rows, self.args.limit)
            text_sets = ("short",) if name in SHORT_TASKS else TEXT_SETS
            classes = Classes(part.class_names, part.templates or PLAIN_TEMPLATES) if part.class_names else None
            settings = {"text_sets": text_sets, "classes": classes, "conditioned": conditioned, "seed": self.args.seed}
            measured = measure(embedder, rows, **settings)
            prefix = f"{part.name}/" if part.name else ""
            figures |= {f"{prefix}{figure}": value for figure, value in measured.figures.items()}
            counts |= {f"{prefix}{what}": number for what, number in measured.counts.items()}
            data_hash.update(measured.data_hash.encode())
            if self.is_first and not self.args.no_pictures:
                of_part = f"{name}-{part.name}" if part.name else name
                pictures += draw_retrieval(measured.reports, rows, Path(self.args.output) / "pictures", of_part)
        if self.is_first:
            write_values(figures, self.args.output, name)
            for unfinished in folder.parent.glob(f"{name}-*"):  # this one, and what was given up
                shutil.rmtree(unfinished)
            if not os.listdir(folder.parent):
                folder.parent.rmdir()
        return {
            "protocol": _marked(protocol, reading, self.args.limit),
            "protocol_hash": protocol.hash,
            "rules": protocol.rules,
            "subset": reading.is_subset or self.args.limit is not None,
            "figures": figures_to_json(figures),
            "counts": counts,
            "data_hash": data_hash.hexdigest(),
            "key": key,
            "pictures": None
            if self.args.no_pictures
            else [path.relative_to(self.args.output).as_posix() for path in pictures],
            "environment": self.results["environment"],
            "settings": self.results["settings"],
            "seconds": round(time.perf_counter() - start, 1),
        }

    def _finished(self) -> dict[str, Any]:
        """All tasks that earlier runs have finished with this very model."""
        earlier = read_results(self.args.output)
        if earlier is None:
            return {}
        hashes = [[one["model"][name] for name in ("sha256", "config_sha256")] for one in (earlier, self.results)]
        if hashes[0] != hashes[1]:
            logger.info("%s holds results of another model: they are replaced", self.args.output)
            return {}
        return earlier["tasks"]

    def _key(self, name: str, reading: Reading) -> str:
        """Tells apart all that changes the results of a task, without reading an image."""
        args, model = self.args, self.results["model"]
        parts = [model["sha256"], model["config_sha256"], self.results["environment"]]
        parts += [protocol_of(name, args.dtype).hash, args.seed, args.limit]
        parts += [self.loaded.has_trained_pooler and not args.no_conditioned, reading.key]
        parts += [stamp for part in reading.parts for stamp in _stamps(part.rows)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def chosen_tasks(args: argparse.Namespace) -> list[str]:
    """The tasks asked for."""
    names = list(dict.fromkeys(name.strip() for name in args.tasks.split(",") if name.strip()))
    for name in names or [args.tasks]:
        if name not in BENCHMARKS:
            raise ValueError(f"tasks must be of {', '.join(BENCHMARKS)}, but one is {name!r}")
    return names


def beside_long_captions(names: Sequence[str], data: str | None) -> list[str]:
    """The tasks of short captions that long ones are reported with, where there is some of their data."""
    if data is None or not set(names) & set(LONG_TASKS) or set(names) & set(SHORT_TASKS):
        return []
    return [name for name in SHORT_TASKS if find_benchmark(name, data)]


def _stamps(rows: Sequence[Row]) -> Iterator[str]:
    """What tells that an image was replaced: size and time of a file, else its content; nothing of generated images."""
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row["image"], str):
            stat = os.stat(row["image"])
            yield f"{stat.st_size} {stat.st_mtime_ns}"
        else:
            yield image_digest(row["image"]).hex()


def _described(benchmark: Benchmark) -> dict[str, str]:
    names = ("id", "title", "kind", "source", "licence", "size", "layout", "protocol")
    return {name: getattr(benchmark, name) for name in names}


def _marked(protocol: Protocol, reading: Reading, limit: int | None) -> str:
    """The name of the protocol, with a mark where only a part of the data was measured."""
    name = f"{protocol.name} ({reading.subset_note})" if reading.is_subset else protocol.name
    return name if limit is None else f"{name} (first {limit})"


def _first(rows: Any, limit: int | None) -> Any:
    return rows if limit is None else torch.utils.data.Subset(rows, range(min(limit, len(rows))))
