"""What an evaluation reports: figures with their chance level and interval, the table of them, and results.json."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from .metrics import bootstrap_interval


@dataclass(frozen=True)
class Figure:
    """One reported number: a share in [0, 1], or a rank."""

    value: float
    chance: float | None = None
    """What a model that scores everything alike gets."""
    low: float | None = None
    high: float | None = None
    """The ends of the 95 % bootstrap interval; `None` where there is none, as for a median."""
    count: int = 0
    """How many queries, groups or phrases it is the mean of."""


def mean_figure(
    values_N: Tensor, *, chance: float | None = None, cluster_index_N: Tensor | None = None, seed: int = 0
) -> Figure:
    """The mean of (N,) values with its interval; values of one image (cluster) are resampled together."""
    low, high = bootstrap_interval(values_N, cluster_index_N, seed=seed)
    return Figure(float(values_N.double().mean()), chance, low, high, len(values_N))


def model_hash(model: nn.Module) -> str:
    """
    SHA-256 over names, types, shapes and bytes of the weights: the same weights have the same hash, whatever the files
    they were read from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware that the figures came from."""
    from .. import __version__

    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    return {
        "beta_clip_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "hardware": hardware,
    }


def figures_to_json(figures: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    return {name: asdict(figure) for name, figure in figures.items()}


def format_table(task: str, result: Mapping[str, Any]) -> str:
    """
    The figures of one task as a plain-text table, shares in per cent, followed by its counts.

    Args:
        task: The heading.
        result: One task's result as in results.json.
    """
    header = ("", "value", "95 % interval", "chance", "n")
    rows = [header, *(_table_row(name, figure) for name, figure in result["figures"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    counts = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in result["counts"].items())
    return "\n".join([f"{task} ({result['protocol']}; {counts})", *(line.rstrip() for line in lines)])


def write_results(results: Mapping[str, Any], output_dir: str | os.PathLike[str]) -> Path:
    """Writes results.json into the directory (made where missing) and returns its path; never leaves half a file."""
    path = Path(output_dir) / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def _table_row(name: str, figure: Mapping[str, Any]) -> tuple[str, ...]:
    def show(number: float | None) -> str:
        if number is None:
            return ""
        return f"{number:.1f}" if name.endswith("rank") else f"{100 * number:.1f}"

    interval = "" if figure["low"] is None else f"{show(figure['low'])} – {show(figure['high'])}"
    return name, show(figure["value"]), interval, show(figure["chance"]), str(figure["count"])
