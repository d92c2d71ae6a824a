"""Measures the contrastive losses tile by tile against their dense twins: time in one process, memory in one each.

python benchmarks/tiled_loss.py --texts 4096               # time of loss and gradients, both ways in turn
python benchmarks/tiled_loss.py --texts 16384 --memory     # peak memory above the embeddings (dense takes 7 GB)
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, format_spread, markdown_table, spread, write_report
from torch import Tensor
from torch.nn.functional import normalize

from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.model.loss_beta_clip import beta_cal_loss, clip_loss


WIDTH, TEXTS_PER_IMAGE = 512, 36
# The number of logits beyond which a loss is tiled.
LIMITS = {"dense": float("inf"), "tiled": 0}
KINDS = ("ce", "bce", "clip")


def make_inputs(num_texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the embeddings of both sides, (T, D) each, and the scale of the logits."""
    generator = torch.Generator().manual_seed(0)
    left = normalize(torch.randn(num_texts, WIDTH, generator=generator), dim=-1).requires_grad_()
    right = normalize(torch.randn(num_texts, WIDTH, generator=generator), dim=-1).requires_grad_()
    return left, right, torch.tensor(14.3, requires_grad=True)


def step(kind: str, way: str, left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Returns the loss and its gradients."""
    paired_rows_beta_clip.DENSE_LIMIT = LIMITS[way]  # type: ignore[assignment]
    if kind == "clip":
        loss = clip_loss(left, right, logit_scale=scale)
    else:
        image_index = torch.arange(len(left)) // TEXTS_PER_IMAGE
        loss = beta_cal_loss(left, right, image_index, logit_scale=scale, kind=kind)
    return loss.detach(), *torch.autograd.grad(loss, (left, right, scale))


def compare_times(kind: str, num_texts: int, repeats: int) -> dict[str, dict[str, float]]:
    """Returns the seconds of both ways and their ratio, after checking that they give the same numbers."""
    inputs = make_inputs(num_texts)
    dense_results = step(kind, "dense", *inputs)
    tiled_results = step(kind, "tiled", *inputs)
    for dense, tiled in zip(dense_results, tiled_results, strict=True):
        assert (dense - tiled).abs().max() <= 1e-5 * dense.abs().max()
    seconds: dict[str, list[float]] = {way: [] for way in LIMITS}
    for _ in range(repeats):
        # In turn: other work on the machine then slows both.
        for way in LIMITS:
            start = time.perf_counter()
            step(kind, way, *inputs)
            seconds[way].append(time.perf_counter() - start)
    ratios = [tiled / dense for dense, tiled in zip(seconds["dense"], seconds["tiled"], strict=True)]
    return {"dense": spread(seconds["dense"]), "tiled": spread(seconds["tiled"]), "ratio": spread(ratios)}


def peak_bytes(kind: str, way: str, num_texts: int) -> int:
    """Returns how far the peak of memory rises in a new process that does one step."""
    command = [sys.executable, __file__, "--texts", str(num_texts), "--peak-of", kind, way]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(kind: str, way: str, num_texts: int) -> None:
    """Prints the bytes of [`peak_bytes`], in its process."""
    # A small step first: what the libraries allocate once does not count.
    step(kind, way, *make_inputs(64))
    inputs = make_inputs(num_texts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(kind, way, *inputs)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The unit is KiB.
    sys.stdout.write(f"{1024 * (after - before)}\n")


def measure_memory(num_texts: int) -> tuple[dict[str, Any], list[list[str]]]:
    """Returns the peaks by kind and way, and the rows of the table."""
    results: dict[str, Any] = {}
    rows = []
    for kind in KINDS:
        peaks = {way: peak_bytes(kind, way, num_texts) for way in LIMITS}
        results[kind] = peaks
        sizes = [f"{peaks[way] / 2**20:.0f} MiB" for way in ("dense", "tiled")]
        rows.append([kind, *sizes, f"{peaks['tiled'] / peaks['dense']:.3f}"])
    return results, rows


def measure_time(num_texts: int, repeats: int) -> tuple[dict[str, Any], list[list[str]]]:
    """Returns the seconds by kind and way, and the rows of the table."""
    results: dict[str, Any] = {}
    rows = []
    for kind in KINDS:
        times = compare_times(kind, num_texts, repeats)
        results[kind] = times
        seconds = [f"{times[way]['median']:.3f} s" for way in ("dense", "tiled")]
        rows.append([kind, *seconds, format_spread(times["ratio"])])
    return results, rows


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4096, help="T, of width 512 in float32 (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each way (%(default)s)")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    parser.add_argument("--peak-of", nargs=2, metavar=("KIND", "WAY"), help="print the bytes of one step and stop")
    args = parser.parse_args()
    if args.peak_of:
        print_peak(*args.peak_of, args.texts)
        return
    if args.memory:
        results, rows = measure_memory(args.texts)
        measured, suffix = "the most memory of a process", "memory"
    else:
        results, rows = measure_time(args.texts, args.repeats)
        measured, suffix = f"time, median of {args.repeats}", "time"
    title = f"Loss and gradients of {args.texts:,} texts of width 512, {measured}"
    table = markdown_table(("", "dense", "tiled", "ratio"), rows)
    write_report(args.output / f"tiled_loss_{suffix}_{args.texts}", title, table, results, settings=vars(args))


if __name__ == "__main__":
    main()
