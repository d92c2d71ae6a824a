"""Measures on a GPU all that only a GPU can tell, in one call of at most eight minutes.

    python benchmarks/gpu.py                          # ViT-B/16 in bfloat16
    python benchmarks/gpu.py --smoke --device cpu     # a small model: does everything run?

Each section writes its numbers into `--output`/gpu.json as soon as it is done, those that are wanted most first. One
that fails, or has used up its own time or that of all, is named there with what it had measured; the others go on.
Afterwards the exit code is 1 if a section has failed.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_sections.arms import time_arms
from gpu_sections.bench import Bench, OutOfTime, time_limit
from gpu_sections.feeding import measure_loader
from gpu_sections.inference import measure_encoding, measure_pairs
from gpu_sections.losses import measure_losses
from gpu_sections.machine import measure_machine
from gpu_sections.steps import check_waits, measure_kernels, measure_parity, measure_step_sizes
from gpu_sections.switches import measure_compiled, measure_switches, measure_varlen
from report import markdown_table
from training_step import ON_GPU

from beta_clip_hf.files import write_json


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "machine": measure_machine,
    "parity": measure_parity,
    "step_sizes": measure_step_sizes,
    "kernels": measure_kernels,
    "waits": check_waits,
    "switches": measure_switches,
    "varlen": measure_varlen,
    "encoding": measure_encoding,
    "pairs": measure_pairs,
    "losses": measure_losses,
    "loader": measure_loader,
    "arms": time_arms,
    "compiled": measure_compiled,
}
"""What is measured, in this order. Sections use the result of "machine"."""
# The most seconds of each section: twice what it should take or, in all, a little more than there are.
SECONDS = {
    "machine": 40,
    "parity": 60,
    "step_sizes": 120,
    "kernels": 30,
    "waits": 20,
    "switches": 90,
    "varlen": 20,
    "encoding": 45,
    "pairs": 45,
    "losses": 60,
    "loader": 60,
    "arms": 70,
    "compiled": 180,
}
ALWAYS = "machine"
# A section that starts later than this before the end would not finish.
_SECONDS_OF_SECTION = 10


def run_sections(bench: Bench, names: list[str], path: Path) -> list[str]:
    """Runs sections, and writes what each returned. Returns the names of those that failed."""
    failed = []
    seconds: dict[str, float] = {}
    for name in names:
        if bench.seconds_left < _SECONDS_OF_SECTION:
            bench.results[name] = "no time left"
            continue
        start = time.perf_counter()
        bench.partial = {}
        try:
            with time_limit(min(SECONDS[name], bench.seconds_left)):
                bench.results[name] = SECTIONS[name](bench)
        except OutOfTime:
            bench.results[name] = {**bench.partial, "out of time": True}
        except Exception:
            # What is measured next is worth the time of the machine, whatever has gone wrong here.
            bench.results[name] = {**bench.partial, "error": traceback.format_exc()}
            failed.append(name)
        seconds[name] = round(time.perf_counter() - start, 1)
        write_json({**bench.results, "seconds": seconds}, path)
        sys.stdout.write(f"{name}: {seconds[name]} s{' FAILED' if name in failed else ''}\n")
        sys.stdout.flush()
    write_json({**bench.results, "seconds": seconds}, path)
    return failed


def summary(results: dict[str, Any]) -> str:
    """Formats the steps, the rows that one looks at first."""
    rows = []
    for size, measured in results.get("step_sizes", {}).items():
        if isinstance(measured, dict) and "median" in measured:
            reference = measured.get("reference", {})
            rows.append(
                [
                    size,
                    measured["median"],
                    measured["host"],
                    measured["images_per_second"],
                    measured["tflops"],
                    measured["share_of_matmul_rate"],
                    measured["peak_mib"],
                    measured.get("times_as_fast", ""),
                    reference.get("peak_mib", ""),
                ]
            )
    columns = ("B", "ms", "host ms", "images/s", "TFLOP/s", "of matmul", "peak MiB", "× reference", "its peak MiB")
    return markdown_table(columns, rows)


def main() -> int:
    """Runs the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--seconds", type=float, default=460, help="time of all sections (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run (all)")
    parser.add_argument("--batch-size", type=int, help="images of a step, where it does not vary (64, or 2)")
    parser.add_argument("--device", default="cuda" if ON_GPU else "cpu", choices=["cuda", "cpu"], help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder of gpu.json (%(default)s)")
    args = parser.parse_args()
    bench = Bench(
        device=args.device,
        preset="quick" if args.smoke else "full",
        is_smoke=args.smoke,
        seconds=args.seconds,
        batch_size=args.batch_size or (2 if args.smoke else 64),
    )
    names = [name for name in SECTIONS if name in args.only or name == ALWAYS]
    args.output.mkdir(parents=True, exist_ok=True)
    failed = run_sections(bench, names, args.output / "gpu.json")
    sys.stdout.write(f"\n{summary(bench.results)}\n{args.output / 'gpu.json'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
