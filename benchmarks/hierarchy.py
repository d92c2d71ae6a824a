"""Captions per second: a plain loop over captions with each tagger, and `beta-clip hierarchy`, first and second run.

    python benchmarks/hierarchy.py                                              # captions of generated scenes
    NLTK_DATA=../shared/data/nltk_data python benchmarks/hierarchy.py ../shared/data/text/iiw_IIW-400.jsonl --column IIW

All are measured in turn, `--rounds` times; figures are medians with their spread. "per core": captions per second of
CPU time, of all processes together. The command reads a JSONL file and writes one; the loops do neither. A tagger that
is not installed, or has no data, is left out.
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

from report import OUTPUT, markdown_table, shown, spread, write_report
from transformers.utils import logging as transformers_logging

from beta_clip_hf import PhraseExtractor, build_text_hierarchy
from beta_clip_hf.data.hierarchies import build_hierarchies
from beta_clip_hf.data.scenes import scene_captions


COLUMNS = ("captions/s", "per core", "to the loop with rules")


def captions_of(path: Path | None, column: str, count: int) -> list[str]:
    """So many captions; those of a file are repeated, each time with another beginning, so that none is the same."""
    if path is None:
        return list(scene_captions(count, level="hard"))
    texts = [json.loads(line)[column] for line in path.read_text(encoding="utf-8").splitlines()]
    return [f"Picture {number}. {texts[number % len(texts)]}" for number in range(count)]


def loop(captions: Sequence[str], extractor: PhraseExtractor) -> None:
    for caption in captions:
        build_text_hierarchy(caption, extractor=extractor)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time, and CPU time of this process and those that it has waited for."""
    wall, before = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - wall, cpu_seconds() - before


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def usable(tagger: str) -> bool:
    try:
        PhraseExtractor(tagger)("A dog runs.")
    except (ImportError, LookupError):
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="JSON Lines with captions; generated ones by default")
    parser.add_argument("--column", default="caption")
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    logging.getLogger("beta_clip_hf").setLevel(logging.ERROR)
    captions = captions_of(arguments.file, arguments.column, arguments.captions)
    works = {
        f"loop, {tagger}": partial(loop, captions, PhraseExtractor(tagger))
        for tagger in ("nltk", "textblob", "rules")
        if usable(tagger)
    }
    measured: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "captions.jsonl")
        rows = ({"image": f"{number}.jpg", "caption": caption} for number, caption in enumerate(captions))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for turn in range(arguments.rounds):
            for name, work in works.items():
                measured.setdefault(name, []).append(seconds(work))
            for processes in arguments.processes:
                run = partial(build_hierarchies, source, Path(folder, f"{turn}-{processes}"), num_proc=processes)
                for name in (f"command, {processes} processes", f"command again, {processes} processes"):
                    measured.setdefault(name, []).append(seconds(run))
    words = statistics.mean(len(caption.split()) for caption in captions)
    title = f"{len(captions):,} captions of {words:.0f} words, median of {arguments.rounds} rounds"
    results = {}
    for name, found in measured.items():
        ratios = [ours[1] / own[1] for ours, own in zip(measured["loop, rules"], found, strict=True)]
        rates = ([len(captions) / pair[which] for pair in found] for which in (0, 1))
        results[name] = dict(zip(COLUMNS, map(spread, (*rates, ratios)), strict=True))
    cells = [(name, *(shown(one, digits) for one, digits in zip(of_way.values(), (0, 0, 2), strict=True)))
             for name, of_way in results.items()]  # fmt: skip
    table = markdown_table(("", *COLUMNS), cells)
    write_report(arguments.output / "hierarchy", title, table, results, settings=vars(arguments))


if __name__ == "__main__":
    main()
