"""Seconds of a few steps of the study's small model: how long an arm of the study takes here, one and two at a time."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .bench import Bench


_STEPS = 100
_PROGRAM = """
import sys, tempfile, time
from dataclasses import replace
from benchmarks.study.arms import ARMS
from benchmarks.study.run import Run, train
from benchmarks.study.schedules import SCHEDULES
schedule = SCHEDULES["finetune", "easy"]
run = Run(ARMS["ce"], 0, schedule=schedule.shortened((schedule.batch_size * int(sys.argv[1]),)), device=sys.argv[2])
print(train(run, is_measured=False).cost["training_seconds"])
"""
PROJECT = Path(__file__).resolve().parents[2]


def time_arms(bench: Bench) -> dict[str, Any]:
    """Times the base of the study: the training alone, in one process and in two beside each other."""
    steps = bench.sized(_STEPS, 2)
    command = [sys.executable, "-c", _PROGRAM, str(steps), bench.device]
    result = bench.open_result()
    result["steps"] = steps
    for count in (1, 2):
        start = time.perf_counter()
        running = [
            subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        try:
            outputs = [process.communicate() for process in running]
        finally:
            # If this section has no more time, they would take that of the others.
            for process in running:
                process.kill()
        for process, (_, errors) in zip(running, outputs, strict=True):
            if process.returncode:
                raise RuntimeError(f"an arm must end with 0, but ended with {process.returncode}: {errors[-500:]}")
        seconds = [float(output.splitlines()[-1]) for output, _ in outputs]
        result[f"{count} at a time"] = {"seconds": seconds, "with_start": round(time.perf_counter() - start, 1)}
    return result
