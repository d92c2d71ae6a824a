"""`beta-clip interpolate`: mixes the weights of a model with those that it was fine-tuned from."""

import argparse

from .evaluate import add_evaluation_arguments, evaluation_settings, task_names
from .reports import Report, add_json_argument, reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip interpolate`."""
    parser.add_argument(
        "base", metavar="BASE", help="directory or Hub id of the model that the fine-tuning started from"
    )
    parser.add_argument("tuned", metavar="TUNED", help="directory or Hub id of the fine-tuned model")
    parser.add_argument(
        "output", metavar="DIR", help="directory to write into; each of several alphas gets a folder of its own"
    )
    parser.add_argument(
        "--alpha",
        type=float,
        nargs="+",
        default=[0.5],
        metavar="X",
        help="weight of TUNED, from 0 to 1; may be several",
    )
    parser.add_argument("--discard", action="store_true", help="keep the metrics only, and delete the models")
    add_json_argument(parser)
    group = parser.add_argument_group("sweep options", "with --tasks, each model is evaluated as by beta-clip evaluate")
    add_evaluation_arguments(group)


@reporting
def run(args: argparse.Namespace) -> Report:
    """
    Interpolates. With `--tasks` the report is sweep.json, without it the report lists the models.

    A single model without tasks is written into DIR. Otherwise each model is written into DIR/alpha_X.
    """
    if args.discard and not args.tasks:
        raise ValueError("discard must come with tasks, because nothing else would be left, but there are none")
    if args.tasks:
        return _sweep(args)

    from beta_clip_hf.release.interpolate import interpolate_all

    folders = interpolate_all(args.base, args.tuned, args.output, alphas=args.alpha)
    models = [{"alpha": alpha, "output": str(folder)} for alpha, folder in folders.items()]
    return Report({"output": args.output, "models": models})


def _sweep(args: argparse.Namespace) -> Report:
    from beta_clip_hf.evaluation.suite import EvaluationSettings
    from beta_clip_hf.release.sweep import format_sweep, sweep

    evaluation = EvaluationSettings(
        model=args.tuned, tasks=task_names(args.tasks), output=args.output, **evaluation_settings(args)
    )
    summary = sweep(args.base, args.tuned, args.output, alphas=args.alpha, evaluation=evaluation, discard=args.discard)
    return Report({"output": args.output, **summary}, format_sweep(summary))
