"""What a benchmark leaves behind: a JSON of all figures and a Markdown table, both with machine and versions."""

import json
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from beta_clip_hf.inference.identity import environment


OUTPUT = Path("runs/bench")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Versions, hardware, cores that this process may use, threads and memory in GiB."""
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
    Writes `path`.json and `path`.md, and prints the second.

    Args:
        path: Without a suffix; its folder is made.
        title: What was measured.
        table: Markdown: the figures, of several runs their median and spread.
        results: All figures, for the JSON.
        device: That they were measured on.
        settings: Of the benchmark, for the JSON.
    """
    found = machine(device)
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in (settings or {}).items()}
    text = (
        f"{title}. {found['hardware']}, {found['cores']} cores, {found['threads']} threads, {found['memory_gib']} GiB; "
        f"torch {found['torch']}, transformers {found['transformers']}, python {found['python']}.\n\n{table}\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    written = {"environment": found, "settings": chosen, "results": results}
    path.with_name(f"{path.name}.json").write_text(json.dumps(written, indent=2) + "\n")
    path.with_name(f"{path.name}.md").write_text(text)
    sys.stdout.write(f"{text}\n")


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(values: Mapping[str, float], digits: int = 2) -> str:
    """The median with its spread."""
    median, least, most = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({least} – {most})"


def row(*cells: Any) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    return "\n".join([row(*header), "|---" * len(header) + "|", *(row(*cells) for cells in rows)])
