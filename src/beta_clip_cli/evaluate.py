"""`beta-clip evaluate`: measures a model on tasks."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from .arguments import (
    add_device_argument,
    add_feeding_arguments,
    add_reading_arguments,
    feeding_settings,
    reading_settings,
)
from .errors import visible
from .reports import Report, add_json_argument, reporting


# The help names the tasks without importing the library; a test holds them equal to those of the library.
TASKS = (
    "urban1k",
    "sharegpt4v_1k",
    "dci",
    "long_dci",
    "docci",
    "iiw",
    "coco",
    "flickr30k",
    "fg_ovd",
    "imagenet",
    "coco_boxes",
    "lvis_boxes",
    "sugarcrepe",
    "valse",
    "phrases",
    "photos",
    "scenes",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip evaluate`."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="directory or Hub id of the model: β-CLIP, FG-CLIP, CLIP, SigLIP, SigLIP 2 or similar",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="directory to write results.json, results.md, values and pictures into"
    )
    parser.add_argument(
        "--list-tasks", action="store_true", help="list all tasks and the data that they need, then stop"
    )
    add_evaluation_arguments(parser)
    add_json_argument(parser)


def add_evaluation_arguments(parser: Any) -> None:
    """
    Adds the arguments that say how to evaluate, which `beta-clip interpolate` has too.

    Args:
        parser: A parser or a group of its arguments.
    """
    parser.add_argument(
        "--tasks", metavar="NAMES", help=f"tasks to measure, separated by commas: any of {', '.join(TASKS)}"
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="folder or file of the data, or a folder that holds a folder per task",
    )
    add_feeding_arguments(parser)
    add_reading_arguments(parser, split="test", with_select=True)
    add_device_argument(parser)
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="precision of the model (default: float32, or bfloat16 on a GPU that has it)",
    )
    parser.add_argument(
        "--allow-subset",
        action="store_true",
        help="measure a benchmark whose files are incomplete; its results are marked",
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, help="measure the first N images only; the results are marked"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="random seed of the bootstrap intervals")
    parser.add_argument("--no-pictures", action="store_true", help="do not draw recall curves and pages of misses")
    parser.add_argument("--no-conditioned", action="store_true", help="do not measure text-conditioned scores")
    parser.add_argument(
        "--no-hierarchical", action="store_true", help="do not measure retrieval by sentences and phrases"
    )


@reporting
def run(args: argparse.Namespace) -> Report:
    """Evaluates a model. The tables appear as the tasks are finished; the report is results.json."""
    if not args.list_tasks:
        for name in ("model", "tasks", "output"):
            if not getattr(args, name):
                raise ValueError(f"{name} must be given, but is not: see beta-clip evaluate --help")

    from beta_clip_hf.evaluation.benchmarks import format_benchmarks
    from beta_clip_hf.evaluation.results import format_headline, format_table
    from beta_clip_hf.evaluation.suite import EvaluationSettings, describe_tasks, evaluate_tasks

    if args.list_tasks:
        return Report(describe_tasks(), format_benchmarks())

    def show_table(task: str, result: Mapping[str, Any]) -> None:
        """Writes the table of a task as soon as it is finished."""
        sys.stdout.write(visible(format_table(task, result)) + "\n\n")

    settings = EvaluationSettings(
        model=args.model, tasks=task_names(args.tasks), output=args.output, **evaluation_settings(args)
    )
    results = evaluate_tasks(settings, show_table)
    if results is None:
        # Of several processes, only the first one has them.
        return Report(None)
    # The tables are long. What matters most comes last, where it is seen.
    headlines = [format_headline(task, results["tasks"][task]) for task in settings.tasks]
    return Report(results, "\n".join(headlines))


def task_names(words: str) -> list[str]:
    """Returns the names between the commas of `--tasks`, each once."""
    names = [name.strip() for name in words.split(",")]
    distinct = list(dict.fromkeys(name for name in names if name))
    # A list without a name is refused as an unknown task, not taken for no task.
    return distinct or [words]


def evaluation_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `EvaluationSettings` that [`add_evaluation_arguments`] has added."""
    from beta_clip_hf.inference.feeding import suited_feeding
    from beta_clip_hf.inference.processes import own_device

    return {
        "data": args.data,
        **feeding_settings(args),
        "device": args.device,
        "dtype": args.dtype or suited_feeding(own_device(args.device)).dtype,
        "allow_subset": args.allow_subset,
        "limit": args.limit,
        "seed": args.seed,
        "pictures": not args.no_pictures,
        "conditioned": not args.no_conditioned,
        "hierarchical": not args.no_hierarchical,
        "reading": _photo_settings(args),
    }


def _photo_settings(args: argparse.Namespace) -> dict[str, Any] | None:
    """Returns how the task `photos` is read. Published benchmarks are read as they are published."""
    settings = reading_settings(args)
    if settings and "photos" not in task_names(args.tasks or ""):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in settings)
        raise ValueError(f"{names} must come with the task photos, but the tasks are {args.tasks}")
    return settings or None
