"""Writes the results of a benchmark: a JSON of all numbers and a Markdown table, both with machine and versions."""

import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from beta_clip_hf.files import write_json, write_text
from beta_clip_hf.inference.identity import environment
from beta_clip_hf.visualize.tables import format_markdown_table


OUTPUT = Path("runs/bench")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Returns versions, hardware, cores that this process may use, threads, and memory in GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        **environment(torch.device(device)),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
    }


def write_report(
    path: Path, title: str, table: str, results: Any, *, device: str = "cpu", settings: Mapping[str, Any] | None = None
) -> None:
    """
    Writes `path`.json and `path`.md, and prints the Markdown.

    Args:
        path: The path without a suffix. Its folder is created if it is missing.
        title: What was measured.
        table: The results in Markdown, with median and spread where there are several runs.
        results: All numbers, for the JSON.
        device: The device that was measured.
        settings: The settings of the benchmark, for the JSON.
    """
    place = machine(device)
    text = (
        f"{title}. {place['hardware']}, {place['cores']} cores, {place['threads']} threads, {place['memory_gib']} GiB; "
        f"torch {place['torch']}, transformers {place['transformers']}, python {place['python']}.\n\n{table}\n"
    )
    plain_settings = {}
    for name, value in (settings or {}).items():
        plain_settings[name] = str(value) if isinstance(value, Path) else value
    document = {"environment": place, "settings": plain_settings, "results": results}
    write_json(document, path.with_name(f"{path.name}.json"))
    write_text(path.with_name(f"{path.name}.md"), text)
    sys.stdout.write(f"{text}\n")


def put_into_page(page: Path, name: str, text: str) -> None:
    """
    Puts a text into its place in a page: between the comments `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: if the page does not have both.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found_start, rest = page.read_text(encoding="utf-8").partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise ValueError(f"{page} must have the lines {start} and {end}, but lacks one of them")
    write_text(page, f"{before}{start}\n\n{text.strip()}\n\n{end}{after}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def format_spread(values: Mapping[str, float], digits: int = 2) -> str:
    """Formats the result of [`spread`]: the median, then the extremes in brackets."""
    median, lowest, highest = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({lowest} – {highest})"


def markdown_table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table of cells of any type."""
    cells = [list(map(str, row)) for row in rows]
    return format_markdown_table(list(map(str, columns)), cells, is_padded=False)
