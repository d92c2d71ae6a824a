"""
Compares ways to train on generated scenes, and writes docs/study.md.

    python -m benchmarks.study list
    python -m benchmarks.study run --arm ce --seed 0
    python -m benchmarks.study queue --seeds 0 1 2
    python -m benchmarks.study report

A run fine-tunes a plain CLIP (or trains from scratch), measures the model along the way and writes one JSON. `queue`
runs what is missing, and may be stopped and started again at any time. `report` writes the page and its plots from the
JSON files alone.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from .arms import ARMS, GROUPS, STARTS
from .ceilings import write_ceilings
from .queueing import Queue, chosen_arms, missing_runs
from .records import RESULTS, default_output, result_path
from .run import Run, run_arm
from .schedules import LEVELS, SCHEDULES, TEST_SCENES, TEST_SEED, TUNING_TEST_SEED


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    root = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = root.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one arm with one seed, unless its result is there")
    run.add_argument("--arm", required=True, choices=list(ARMS), metavar="NAME", help="see `list`")
    run.add_argument("--seed", type=int, required=True, help="seed of scenes, texts and new weights")
    run.add_argument("--save", type=Path, help="folder for the trained model (not kept)")
    queue = commands.add_parser("queue", help="run what is missing, one after the other")
    queue.add_argument("--only", nargs="+", default=[], metavar="NAME", help="arms or groups, with wildcards (all)")
    queue.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    queue.add_argument("--workers", type=int, default=1, help="runs at a time (%(default)s)")
    commands.add_parser("report", help="write docs/study.md and its plots from the results")
    commands.add_parser("ceilings", help="compute the best R@1 that any model can have on the test scenes")
    listing = commands.add_parser("list", help="show the arms, and which of their results are there")
    for command in (run, queue, listing):
        command.add_argument("--start", default="finetune", choices=STARTS, help="(%(default)s)")
        command.add_argument("--level", default="easy", choices=LEVELS, help="level of the scenes (%(default)s)")
        command.add_argument(
            "--test-seed",
            type=int,
            default=TEST_SEED,
            help=f"seed of the test scenes (%(default)s); a recipe is tuned on {TUNING_TEST_SEED}",
        )
        command.add_argument("--output", type=Path, help="folder of the results (benchmarks/study/results/…)")
    for command in (run, queue):
        command.add_argument("--clip", type=Path, help="plain CLIP to fine-tune (the one of the package)")
        command.add_argument("--threads", type=int, default=1, help="threads of a run (%(default)s)")
        command.add_argument("--device", default="cpu", help="device of a run (%(default)s)")
    return root


def output_folder(args: argparse.Namespace) -> Path:
    """Returns the folder of the results. Those on other test scenes never stand beside the report's."""
    if args.output is not None:
        return args.output.resolve()
    folder = default_output(args.start, args.level)
    if args.test_seed == TEST_SEED:
        return folder
    return folder.with_name(f"{folder.name}_test{args.test_seed}")


def run_command(args: argparse.Namespace) -> int:
    """Runs one arm."""
    arm = ARMS[args.arm]
    if args.start not in arm.starts:
        raise ValueError(f"--start must be one of {arm.starts} for {arm.name!r}, but is {args.start!r}")
    if arm.unknown_settings():
        raise ValueError(f"the settings of {arm.name!r} must be known, but {arm.unknown_settings()} are not")
    torch.set_num_threads(args.threads)
    transformers_logging.disable_progress_bar()
    run = Run(
        arm,
        args.seed,
        args.start,
        args.level,
        args.clip,
        args.test_seed,
        device=args.device,
        schedule=SCHEDULES[args.start, args.level],
    )
    path = run_arm(run, result_path(output_folder(args), arm.name, args.seed), args.save)
    sys.stdout.write(f"{path}\n")
    return 0


def queue_command(args: argparse.Namespace) -> int:
    """Runs what is missing. Returns 1 if a run failed."""
    output = output_folder(args)
    arms = chosen_arms(args.start, args.only)
    runs = missing_runs(arms, args.seeds, output)
    arguments = ["--start", args.start, "--level", args.level, "--test-seed", str(args.test_seed)]
    arguments += ["--device", args.device]
    if args.clip is not None:
        arguments += ["--clip", str(args.clip.resolve())]
    logging.getLogger("benchmarks.study").info("%d runs are missing", len(runs))
    failures = Queue(output, tuple(arguments), args.threads).run(runs, args.workers)
    for name in failures:
        sys.stdout.write(f"failed: {name}\n")
    return int(bool(failures))


def list_command(args: argparse.Namespace) -> int:
    """Shows the arms."""
    output = output_folder(args)
    for group, question in GROUPS.items():
        sys.stdout.write(f"{group}: {question}\n")
        for arm in ARMS.values():
            if arm.group == group and args.start in arm.starts:
                sys.stdout.write(f"  {arm.name:22} {_state(arm.name, output):22} {arm.description}\n")
    return 0


def _state(name: str, output: Path) -> str:
    """Tells which results of an arm are there, or why it cannot run."""
    unknown = ARMS[name].unknown_settings()
    if unknown:
        return f"unavailable: {unknown[0]}"
    seeds = [path.stem.removeprefix(f"{name}_") for path in output.glob(f"{name}_*.json")]
    numbers = sorted(int(seed) for seed in seeds if seed.isdigit())
    return f"seeds {' '.join(map(str, numbers))}" if numbers else "no results"


def report_command(args: argparse.Namespace) -> int:
    """Writes the page."""
    # Imported late: runs need no matplotlib.
    from .report import PAGE, write_report

    sys.stdout.write(f"{write_report(RESULTS, PAGE)}\n")
    return 0


def ceilings_command(args: argparse.Namespace) -> int:
    """Computes the ceilings of both levels."""
    for level in LEVELS:
        sys.stdout.write(f"{write_ceilings(level, TEST_SEED, TEST_SCENES)}\n")
    return 0


COMMANDS = {
    "run": run_command,
    "queue": queue_command,
    "list": list_command,
    "report": report_command,
    "ceilings": ceilings_command,
}


def main() -> None:
    """Runs the command."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("benchmarks.study").setLevel(logging.INFO)
    args = parser().parse_args()
    try:
        sys.exit(COMMANDS[args.command](args))
    except ValueError as error:
        sys.exit(f"python -m benchmarks.study {args.command}: {error}")


if __name__ == "__main__":
    main()
