"""
Kills `evaluate`, `hierarchy` and `index` at random moments and runs them again.

    PYTHONPATH=tests python -m faults.kill_commands --trials 20

A trial begins a command, ends it by SIGKILL, does so again, and then runs it to its end, each time with the same words.
It has survived if no command fails, and what is left is what a run leaves that nobody has killed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.kills import die_at_access, wait, write_rows


def evaluate_words(folder: Path, output: Path) -> list[str]:
    words = ["evaluate", "--model", folder / "model", "--tasks", "photos", "--data", folder / "rows.jsonl"]
    return [str(word) for word in [*words, "--output", output, "--device", "cpu", "--batch-size", 4]]


def hierarchy_words(folder: Path, output: Path) -> list[str]:
    return ["hierarchy", str(folder / "rows.jsonl"), "--output", str(output), "--num-proc", "1"]


def index_words(folder: Path, output: Path) -> list[str]:
    words = ["index", folder / "rows.jsonl", "--output", output, "--model", folder / "model"]
    return [str(word) for word in [*words, "--device", "cpu", "--json", "--batch-size", 4]]


def state_of_evaluation(output: Path) -> object:
    """Results and values, but for times."""
    results = json.loads((output / "results.json").read_text())
    del results["created"]
    for task in results["tasks"].values():
        del task["seconds"]
    files = {}
    for path in sorted(output.rglob("*")):
        if path.is_file() and path.name not in ("results.json", "results.md"):
            files[str(path.relative_to(output))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return results, files


def state_of_files(output: Path) -> object:
    """All files, also hidden ones."""
    return {str(path.relative_to(output)): path.read_text() for path in sorted(output.rglob("*")) if path.is_file()}


def state_of_index(output: Path) -> object:
    """All images with their columns and embeddings, and those that could not be read."""
    from beta_clip_hf.search.table import ImageTable

    table = ImageTable.open(output)
    columns = [name for name in table.columns if name != "image"]
    rows = table.fetch(sorted(table.known()), [*columns, "vector"])
    return sorted(rows.items()), table.unreadable(), str(table.read_calibration())


@dataclass(frozen=True)
class Command:
    """Holds a command, and what it leaves behind."""

    name: str
    words: Callable[[Path, Path], list[str]]
    state: Callable[[Path], object]


COMMANDS = (
    Command("evaluate", evaluate_words, state_of_evaluation),
    Command("hierarchy", hierarchy_words, state_of_files),
    Command("index", index_words, state_of_index),
)


def in_small_pieces() -> None:
    """Has work kept after every few images, so that a kill finds some that is done."""
    from beta_clip_hf.data import hierarchies
    from beta_clip_hf.evaluation import probes
    from beta_clip_hf.search import index

    probes.IMAGES_PER_SHARD = 4
    index.IMAGES_PER_FRAGMENT = 4
    hierarchies.BLOCK_ROWS = 4


def start(function: Callable[[], int], log: Path, access: int | None = None) -> int:
    """Forks a process that ends with what a function returns, and returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        in_small_pieces()
        if access is not None:
            sys.addaudithook(die_at_access(access))
        code = function()
    finally:
        # Nothing of the parent's may run at the end of a fork.
        os._exit(code)


def run_words(words: list[str]) -> Callable[[], int]:
    """Returns a function that runs a command. It imports nothing before it is called, in a fork."""

    def run() -> int:
        from beta_clip_cli.main import main

        return main(words)

    return run


def state_in_fork(command: Command, output: Path, log: Path) -> str:
    """Returns a digest of what a command has left. LanceDB runs threads, so that it is used in forks alone."""
    found = log.with_suffix(".state")

    def read() -> int:
        found.write_text(hashlib.sha256(repr(command.state(output)).encode()).hexdigest())
        return 0

    if wait([start(read, log)], 600) != [0]:
        return "no state"
    return found.read_text()


def kill_once(command: Command, words: list[str], log: Path, rng: random.Random, duration: float) -> bool:
    """Starts a command and kills it. Returns whether it was hit before its end."""
    access = rng.randrange(1, 60) if rng.random() < 0.5 else None
    child = start(run_words(words), log, access)
    if access is None:
        time.sleep(rng.uniform(0.05, 1.0) * duration)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def run_trials(command: Command, trials: int, seed: int, folder: Path) -> tuple[int, int]:
    """Runs the trials of a command. Returns how many survived and how many kills hit."""
    # `die_at_access` counts the files of such a directory.
    runs = folder / f"run-{command.name}"
    runs.mkdir()
    log = folder / f"{command.name}.log"
    whole = runs / "whole"
    begin = time.monotonic()
    if wait([start(run_words(command.words(folder, whole)), log)], 600) != [0]:
        raise SystemExit(f"the run that nobody kills must end with 0, but has not: {log.read_text()[-2000:]}")
    duration = time.monotonic() - begin
    expected = state_in_fork(command, whole, log)
    survived = kills = 0
    for trial in range(trials):
        rng = random.Random(f"{seed}/{command.name}/{trial}")
        output = runs / str(trial)
        words = command.words(folder, output)
        log.unlink(missing_ok=True)
        for _ in range(2):
            kills += kill_once(command, words, log, rng, duration)
        codes = wait([start(run_words(words), log)], 600)
        if codes == [0] and state_in_fork(command, output, log) == expected != "no state":
            survived += 1
            shutil.rmtree(output)
        else:
            sys.stderr.write(f"{command.name}, trial {trial}: codes {codes}, {log.read_text()[-2000:]}\n")
    return survived, kills


def main() -> int:
    """Runs all trials and prints the figures. The exit code is 1 if one has not survived."""
    parser = argparse.ArgumentParser(description="Kills commands at random and runs them again.")
    parser.add_argument("--trials", type=int, default=20, help="trials of each command (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills (default: 0)")
    parser.add_argument("--commands", nargs="*", default=[command.name for command in COMMANDS])
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    # What all commands need is imported once. LanceDB is not: it runs threads, which a fork would lack.
    from beta_clip_hf.evaluation import suite  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    write_rows(folder)
    has_failed = False
    for command in COMMANDS:
        if command.name not in args.commands:
            continue
        survived, kills = run_trials(command, args.trials, args.seed, folder)
        sys.stdout.write(f"| {command.name} | {survived} / {args.trials} | {kills} |\n")
        has_failed = has_failed or survived < args.trials
    if has_failed:
        sys.stderr.write(f"what is left is in {folder}\n")
    else:
        shutil.rmtree(folder)
    return int(has_failed)


if __name__ == "__main__":
    raise SystemExit(main())
