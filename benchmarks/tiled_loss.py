"""The contrastive losses tile by tile against their dense twins: time in turn in one process, memory in one each.

python benchmarks/tiled_loss.py --texts 4096               # time of loss and gradients, both ways
python benchmarks/tiled_loss.py --texts 16384 --memory     # peak memory above the embeddings (dense takes 7 GB)
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from report import OUTPUT, markdown_table, shown, spread, write_report
from torch import Tensor
from torch.nn.functional import normalize

from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.model.loss_beta_clip import beta_cal_loss, clip_loss


WIDTH, TEXTS_PER_IMAGE = 512, 36
LIMITS = {"dense": float("inf"), "tiled": 0}
KINDS = ("ce", "bce", "clip")


def leaves(texts: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [normalize(torch.randn(texts, WIDTH, generator=generator), dim=-1).requires_grad_() for _ in range(2)]
    return sides[0], sides[1], torch.tensor(14.3, requires_grad=True)


def step(kind: str, way: str, left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """The loss and its gradients."""
    paired_rows_beta_clip.DENSE_LIMIT = LIMITS[way]  # type: ignore[assignment]
    if kind == "clip":
        loss = clip_loss(left, right, logit_scale=scale)
    else:
        image_index = torch.arange(len(left)) // TEXTS_PER_IMAGE
        loss = beta_cal_loss(left, right, image_index, logit_scale=scale, kind=kind)
    return loss.detach(), *torch.autograd.grad(loss, (left, right, scale))


def compare_times(kind: str, texts: int, repeats: int) -> dict[str, dict[str, float]]:
    tensors = leaves(texts)
    found = {way: step(kind, way, *tensors) for way in LIMITS}
    for dense, tiled in zip(found["dense"], found["tiled"], strict=True):
        assert (dense - tiled).abs().max() <= 1e-5 * dense.abs().max()
    seconds: dict[str, list[float]] = {way: [] for way in LIMITS}
    for _ in range(repeats):
        for way in LIMITS:
            start = time.perf_counter()
            step(kind, way, *tensors)
            seconds[way].append(time.perf_counter() - start)
    ratios = [tiled / dense for dense, tiled in zip(seconds["dense"], seconds["tiled"], strict=True)]
    return {name: spread(values) for name, values in (seconds | {"ratio": ratios}).items()}


def peak_bytes(kind: str, way: str, texts: int) -> int:
    """Growth of the peak of a new process that does one step."""
    command = [sys.executable, __file__, "--texts", str(texts), "--peak-of", kind, way]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(kind: str, way: str, texts: int) -> None:
    step(kind, way, *leaves(64))
    tensors = leaves(texts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(kind, way, *tensors)
    sys.stdout.write(f"{1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4096, help="T, of width 512 in float32 (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--memory", action="store_true", help="peak memory in the place of time")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    parser.add_argument("--peak-of", nargs=2, metavar=("KIND", "WAY"), help="print the bytes of one step and stop")
    args = parser.parse_args()
    if args.peak_of:
        print_peak(*args.peak_of, args.texts)
        return
    if args.memory:
        results = {kind: {way: peak_bytes(kind, way, args.texts) for way in LIMITS} for kind in KINDS}
        cells = [
            (kind, *(f"{one[way] / 2**20:.0f} MiB" for way in ("dense", "tiled")), f"{one['tiled'] / one['dense']:.3f}")
            for kind, one in results.items()
        ]
    else:
        results = {kind: compare_times(kind, args.texts, args.repeats) for kind in KINDS}
        cells = [
            (kind, *(f"{one[way]['median']:.3f} s" for way in ("dense", "tiled")), shown(one["ratio"]))
            for kind, one in results.items()
        ]
    what = "the most memory of a process" if args.memory else f"time, median of {args.repeats}"
    title = f"Loss and gradients of {args.texts:,} texts of width 512, {what}"
    path = args.output / f"tiled_loss_{'memory' if args.memory else 'time'}_{args.texts}"
    write_report(path, title, markdown_table(("", "dense", "tiled", "ratio"), cells), results, settings=vars(args))


if __name__ == "__main__":
    main()
