"""Runs what is missing of the study, one run after the other, each in a process of its own."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from .arms import ARMS, Arm
from .records import result_path


logger = logging.getLogger(__name__)
PROJECT = Path(__file__).resolve().parents[2]


def chosen_arms(start: str, patterns: Sequence[str]) -> list[Arm]:
    """
    Returns the arms of a start, in the order of the table.

    Args:
        start: "finetune" or "scratch".
        patterns: Names of arms or groups, with wildcards; all arms if there are none.

    Raises:
        ValueError: if a pattern fits nothing.
    """
    arms = [arm for arm in ARMS.values() if start in arm.starts]
    if not patterns:
        return arms
    for pattern in patterns:
        if not any(_fits(arm, pattern) for arm in arms):
            raise ValueError(f"--only must name arms or groups of {start!r}, but {pattern!r} fits none")
    return [arm for arm in arms if _fits_any(arm, patterns)]


def _fits_any(arm: Arm, patterns: Sequence[str]) -> bool:
    return any(_fits(arm, pattern) for pattern in patterns)


def _fits(arm: Arm, pattern: str) -> bool:
    return fnmatch(arm.name, pattern) or arm.group == pattern


def missing_runs(arms: Sequence[Arm], seeds: Sequence[int], output: Path) -> list[tuple[Arm, int]]:
    """Returns the runs without a result: the first seed of all arms, then the next, so that claims fill up early."""
    runs = []
    for position, seed in enumerate(seeds):
        for arm in arms:
            # What is not trained is the same for all seeds.
            is_wanted = arm.is_trained or position == 0
            if is_wanted and not arm.unknown_settings() and not result_path(output, arm.name, seed).exists():
                runs.append((arm, seed))
    return runs


@dataclass(frozen=True)
class Queue:
    """Runs in processes of their own, so that one that fails or is killed leaves the others alone."""

    output: Path
    arguments: tuple[str, ...]
    """Arguments of `run` besides the arm, the seed and the folder."""
    threads: int = 1

    def run(self, runs: Sequence[tuple[Arm, int]], workers: int) -> list[str]:
        """Runs all. Returns the names of the runs that failed."""
        with ThreadPoolExecutor(workers) as pool:
            failures = pool.map(lambda item: self._run_in_process(*item), runs)
            return [name for name in failures if name]

    def _run_in_process(self, arm: Arm, seed: int) -> str:
        """Runs an arm. Returns its name if it failed, and nothing otherwise."""
        name = f"{arm.name}, seed {seed}"
        # Another queue may have run it in the meantime.
        if result_path(self.output, arm.name, seed).exists():
            return ""
        command = [sys.executable, "-m", "benchmarks.study", "run", "--arm", arm.name, "--seed", str(seed)]
        command += ["--output", str(self.output), "--threads", str(self.threads), *self.arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            logger.error("%s failed after %.0f s:\n%s", name, seconds, done.stderr[-3000:])
            return name
        logger.info("%s: %.0f s", name, seconds)
        return ""
