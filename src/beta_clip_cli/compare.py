"""`beta-clip compare`: differences between two results on the same data, with their intervals."""

import argparse
import logging
from pathlib import Path

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip compare`."""
    parser.add_argument(
        "a", metavar="A", help="output directory of beta-clip evaluate for the first model, or the results.json in it"
    )
    parser.add_argument("b", metavar="B", help="the same for the second model, evaluated on the same data")
    parser.add_argument(
        "--tasks", metavar="NAMES", help="tasks to compare, separated by commas (default: all that both results have)"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="JSON file to write the differences into")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="random seed of the bootstrap intervals")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Compares two results. The report holds the differences, which go to `args.output` too if it is given."""
    from beta_clip_hf.evaluation.compare import compare, format_comparison
    from beta_clip_hf.files import write_json

    tasks = None
    if args.tasks:
        tasks = [name.strip() for name in args.tasks.split(",")]
    comparison = compare(args.a, args.b, tasks=tasks, seed=args.seed)
    if args.output is not None:
        write_json(comparison, args.output)
        logger.info("the differences are in %s", args.output)
    return Report(comparison, format_comparison(comparison))
