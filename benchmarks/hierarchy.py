"""Measures captions per second: a loop over captions with each tagger, and `beta-clip hierarchy`, first and second run.

    python benchmarks/hierarchy.py                                              # captions of generated scenes
    python benchmarks/hierarchy.py descriptions.jsonl --column IIW

All are measured in turn, `--rounds` times; the table has medians with their spread. "per core" is captions per second
of CPU time, over all processes. The command reads a JSONL file and writes one; the loops do neither. A tagger that is
not installed, or has no data, is left out.
"""

import argparse
import json
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from report import OUTPUT, format_spread, markdown_table, spread, write_report
from transformers.utils import logging as transformers_logging

from beta_clip_hf import PhraseExtractor, build_text_hierarchy
from beta_clip_hf.data.hierarchies import build_hierarchies
from beta_clip_hf.data.scenes import scene_captions


TAGGERS = ("nltk", "textblob", "rules")
# The columns of the table, with the digits that they show.
COLUMNS = {"captions/s": 0, "per core": 0, "to the loop with rules": 2}


class Seconds(NamedTuple):
    """Wall time, and CPU time of this process and the processes that it has waited for."""

    wall: float
    cpu: float


def read_captions(path: Path | None, column: str, count: int) -> list[str]:
    """Returns captions of a file, or of generated scenes. Repeated captions begin differently, so that all differ."""
    if path is None:
        return list(scene_captions(count, level="hard"))
    texts = [json.loads(line)[column] for line in path.read_text(encoding="utf-8").splitlines()]
    return [f"Picture {number}. {texts[number % len(texts)]}" for number in range(count)]


def run_loop(captions: Sequence[str], extractor: PhraseExtractor) -> None:
    """Builds the hierarchy of each caption."""
    for caption in captions:
        build_text_hierarchy(caption, extractor=extractor)


def timed(work: Callable[[], object]) -> Seconds:
    """Runs the work and returns its time."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return Seconds(time.perf_counter() - wall, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of those that it has waited for."""
    total = 0.0
    for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(processes)
        total += usage.ru_utime + usage.ru_stime
    return total


def is_usable(tagger: str) -> bool:
    """Whether a tagger is installed and has its data."""
    try:
        PhraseExtractor(tagger)("A dog runs.")
    except (ImportError, LookupError):
        return False
    return True


def measure(captions: Sequence[str], rounds: int, process_counts: Sequence[int]) -> dict[str, list[Seconds]]:
    """Returns the times of all rounds, by what was run."""
    loops = {}
    for tagger in TAGGERS:
        if is_usable(tagger):
            loops[f"loop, {tagger}"] = partial(run_loop, captions, PhraseExtractor(tagger))
    times: dict[str, list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "captions.jsonl")
        rows = ({"image": f"{number}.jpg", "caption": caption} for number, caption in enumerate(captions))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for turn in range(rounds):
            for name, loop in loops.items():
                times.setdefault(name, []).append(timed(loop))
            for processes in process_counts:
                command = partial(build_hierarchies, source, Path(folder, f"{turn}-{processes}"), num_proc=processes)
                # The second run finds the result of the first.
                for name in (f"command, {processes} processes", f"command again, {processes} processes"):
                    times.setdefault(name, []).append(timed(command))
    return times


def summarise(times: dict[str, list[Seconds]], num_captions: int) -> dict[str, dict[str, Any]]:
    """Returns the spread of each column, by what was run."""
    results = {}
    for name, seconds in times.items():
        ratios = [rules.cpu / other.cpu for rules, other in zip(times["loop, rules"], seconds, strict=True)]
        columns = [
            [num_captions / turn.wall for turn in seconds],
            [num_captions / turn.cpu for turn in seconds],
            ratios,
        ]
        results[name] = {column: spread(values) for column, values in zip(COLUMNS, columns, strict=True)}
    return results


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="JSON Lines with captions (generated captions)")
    parser.add_argument("--column", default="caption", help="column of the captions (%(default)s)")
    parser.add_argument("--captions", type=int, default=2000, help="number of captions (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is measured (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="processes of the command (1 2)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    logging.getLogger("beta_clip_hf").setLevel(logging.ERROR)
    captions = read_captions(args.file, args.column, args.captions)
    times = measure(captions, args.rounds, args.processes)
    results = summarise(times, len(captions))
    rows = []
    for name, columns in results.items():
        rows.append([name, *(format_spread(columns[column], digits) for column, digits in COLUMNS.items())])
    words = statistics.mean(len(caption.split()) for caption in captions)
    title = f"{len(captions):,} captions of {words:.0f} words, median of {args.rounds} rounds"
    table = markdown_table(("", *COLUMNS), rows)
    write_report(args.output / "hierarchy", title, table, results, settings=vars(args))


if __name__ == "__main__":
    main()
