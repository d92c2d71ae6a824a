"""Measures a training step on 1, 2 and 4 processes, and computes what the losses would send and hold on many GPUs.

    python benchmarks/weak_scaling.py                                        # measured, gloo on the CPU, and on paper
    python benchmarks/weak_scaling.py --paper --images 256 --kind bce        # on paper alone

Measured: each process has one thread, the same number of images, and 36 texts per image. Steps with the losses over all
processes and steps with the losses over the batch of each process take turns. More processes than cores share the
cores, so the table also has the time of a step times cores per process, and the CPU time of a process, which other work
on the machine affects least.

On paper: bytes are counted, see `step_collectives`. Bandwidths, latency, and the speed of towers and losses are
arguments, not measurements.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing
from report import OUTPUT, format_spread, markdown_table, spread, write_report
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.files import write_json
from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.training.distributed import ProcessGather


TEXTS_PER_IMAGE, SENTENCES = 36, 5
START, END = 510, 511
TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG = {
    "projection_dim": 64,
    "text_config": {**TOWER, "vocab_size": 512, "bos_token_id": START, "eos_token_id": END, "pad_token_id": END},
    "vision_config": {**TOWER, "image_size": 64, "patch_size": 8},
}
# The two ways to compute the losses of a step.
OVER_ALL, LOCAL = "over all", "own batch"


class Collective(NamedTuple):
    """An operation of all processes."""

    operation: str
    num_bytes: int
    """The size of the tensor of all processes."""


@dataclass
class Collectives:
    """The operations of a step."""

    forward: list[Collective] = field(default_factory=list)
    backward: list[Collective] = field(default_factory=list)

    @property
    def calls(self) -> list[Collective]:
        """The operations of both passes."""
        return self.forward + self.backward


def step_collectives(
    images: Sequence[int], texts: Sequence[int], width: int, *, kind: str = "ce", dense_limit: float | None = None
) -> Collectives:
    """
    Returns what the losses of a step (`clip_loss` and β-CAL) exchange.

    Args:
        images, texts: The numbers of each process.
        width: D.
        kind: "ce" or "bce".
        dense_limit: The number of logits beyond which a loss is tiled and its work is shared; by default that of the
            package.
    """
    limit = paired_rows_beta_clip.DENSE_LIMIT if dense_limit is None else dense_limit
    clip = contrast_collectives(images, width, "ce", has_ids=False, limit=limit)
    beta_cal = contrast_collectives(texts, width, kind, has_ids=True, limit=limit)
    # First the processes exchange six row counts each, as int64.
    sizes = Collective("all_gather", 8 * 6 * len(images))
    return Collectives([sizes, *clip.forward, *beta_cal.forward], clip.backward + beta_cal.backward)


def contrast_collectives(rows: Sequence[int], width: int, kind: str, *, has_ids: bool, limit: float) -> Collectives:
    """Returns what one loss exchanges: embeddings in float32, and ids of int64."""
    # Rows travel padded to the fullest process.
    padded = len(rows) * max(rows)
    is_shared = sum(rows) ** 2 > limit
    # If the work is shared, the left side stays with its process.
    num_sides = 1 if is_shared else 2
    collectives = Collectives()
    collectives.forward += [Collective("all_gather", 4 * padded * width)] * num_sides
    collectives.backward += [Collective("reduce_scatter", 4 * padded * width)] * num_sides
    if has_ids:
        collectives.forward.append(Collective("all_gather", 8 * padded))
    if is_shared:
        # The value of the loss.
        collectives.forward.append(Collective("all_reduce", 4))
        if kind == "ce":
            # Log-sum-exps over columns: their peaks, their sums, and a gradient for each.
            column_sums = Collective("all_reduce", 4 * sum(rows))
            collectives.forward += [column_sums] * 2
            collectives.backward.append(column_sums)
    return collectives


def sent_bytes(collectives: Sequence[Collective], processes: int) -> float:
    """Returns what a process sends in a ring: all of a tensor except its own part, and twice that for an all-reduce."""
    trips = {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 2}
    num_bytes = sum(trips[collective.operation] * collective.num_bytes for collective in collectives)
    return num_bytes * (processes - 1) / processes


def on_paper(processes: int, num_images: int, args: argparse.Namespace) -> dict[str, float]:
    """Returns bytes, memory and seconds of a step on that many GPUs."""
    num_texts, width = TEXTS_PER_IMAGE * num_images, args.width
    collectives = step_collectives([num_images] * processes, [num_texts] * processes, width, kind=args.kind)
    sent = sent_bytes(collectives.calls, processes)
    bandwidth = args.inside
    if processes > args.gpus_per_node:
        # A ring over several nodes leaves each of them once, spread over the network cards of all of its GPUs.
        bandwidth = min(args.inside, args.gpus_per_node * args.between)
    # The products of all texts with all texts, of both passes.
    products = {"ce": 4, "bce": 3}[args.kind]
    operations = 2 * width * processes * (4 * num_images**2 + products * num_texts**2)
    exchange = sent / (1e9 * bandwidth) + 1e-6 * args.latency * len(collectives.calls)
    losses = operations / (1e12 * args.loss_rate)
    ddp = Collective("all_reduce", int(4e6 * args.parameters))
    return {
        "processes": processes,
        "texts": processes * num_texts,
        "sent_bytes": sent,
        "gradient_bytes": sent_bytes([ddp], processes),
        # At the peak there are four tensors of all texts.
        "loss_bytes": 4 * 4 * processes * num_texts * width,
        "square_bytes": 4 * (processes * num_texts) ** 2,
        "exchange_share": exchange / (exchange + losses + args.tower_seconds),
        "exchange_seconds": exchange,
        "losses_seconds": losses,
        "towers_seconds": args.tower_seconds,
    }


def make_batch(num_images: int, seed: int) -> dict[str, Any]:
    """Returns captions of 60 tokens, sentences of 14, phrases of 6, and noise for images."""
    generator = torch.Generator().manual_seed(seed)
    num_phrases = TEXTS_PER_IMAGE - 1 - SENTENCES
    lengths = [60, *[14] * SENTENCES, *[6] * num_phrases] * num_images
    input_ids = torch.randint(0, START, (len(lengths), max(lengths)), generator=generator)
    input_ids[:, 0] = START
    input_ids[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None] - 1] = END
    kinds = [0, *[1] * SENTENCES, *[2] * num_phrases]
    return {
        "pixel_values": torch.randn(num_images, 3, 64, 64, generator=generator),
        "input_ids": input_ids,
        "image_index": torch.arange(num_images).repeat_interleave(TEXTS_PER_IMAGE),
        "granularity": torch.tensor(kinds * num_images),
        "return_loss": True,
    }


def in_process(rank: int, processes: int, folder: str, args: argparse.Namespace) -> None:
    """Writes to a file of the process: wall and CPU seconds of the steps, and how far the peak of memory rose."""
    torch.set_num_threads(1)
    paired_rows_beta_clip.DENSE_LIMIT = args.dense_limit
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=processes)
    torch.manual_seed(0)
    config = BetaCLIPConfig(**CONFIG, pooler_num_attention_heads=2, alignment_loss=args.kind)
    model = DistributedDataParallel(BetaCLIPModel(config).train())
    batch = make_batch(args.images, seed=rank)
    gathers = {OVER_ALL: ProcessGather(), LOCAL: None}
    seconds: dict[str, dict[str, list[float]]] = {
        "wall": {way: [] for way in gathers},
        "cpu": {way: [] for way in gathers},
    }
    # A small step first: what the libraries allocate once does not count.
    with model.module.loss_context(gather=ProcessGather()):
        model(**make_batch(1, seed=rank)).loss.backward()
    # The second number is the resident memory in pages.
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for repeat in range(args.repeats + 1):
        for way, gather in gathers.items():
            model.zero_grad(set_to_none=False)
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            with model.module.loss_context(gather=gather):
                model(**batch).loss.backward()
            dist.barrier()
            # The first repeat warms up.
            if repeat > 0:
                seconds["wall"][way].append(time.perf_counter() - wall)
                seconds["cpu"][way].append(time.process_time() - cpu)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    write_json({"seconds": seconds, "peak_bytes": peak}, Path(folder, f"{rank}.json"))
    dist.barrier()
    dist.destroy_process_group()


def measure(processes: int, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the times and the memory of steps on that many processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(in_process, (processes, folder, args), nprocs=processes)
        results = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    # All processes wait for one another: the clock of the first one is that of all.
    wall = results[0]["seconds"]["wall"]
    ratios = [over_all / local for over_all, local in zip(wall[OVER_ALL], wall[LOCAL], strict=True)]
    median = statistics.median(wall[OVER_ALL])
    cpu_seconds = {}
    for way in (OVER_ALL, LOCAL):
        medians = [statistics.median(result["seconds"]["cpu"][way]) for result in results]
        cpu_seconds[way] = statistics.mean(medians)
    cores = min(len(os.sched_getaffinity(0)), processes)
    return {
        "processes": processes,
        "texts": processes * args.images * TEXTS_PER_IMAGE,
        "step_seconds": median,
        "core_seconds": median * cores / processes,
        "cpu_seconds": cpu_seconds,
        "ratio": spread(ratios),
        "peak_bytes": max(result["peak_bytes"] for result in results),
    }


def measured_table(measured: list[dict[str, Any]]) -> str:
    """Formats what was measured."""
    columns = [
        *("processes", "texts in all", "step", "× cores / processes", "of a step with local losses (spread)"),
        *("CPU time of a process", "with local losses", "peak memory of the steps"),
    ]
    rows = []
    for result in measured:
        row = [
            result["processes"],
            f"{result['texts']:,}",
            f"{result['step_seconds']:.2f} s",
            f"{result['core_seconds']:.2f} s",
            format_spread(result["ratio"]),
            f"{result['cpu_seconds'][OVER_ALL]:.2f} s",
            f"{result['cpu_seconds'][LOCAL]:.2f} s",
            f"{result['peak_bytes'] / 2**20:.0f} MiB",
        ]
        rows.append(row)
    return markdown_table(columns, rows)


def paper_table(paper: list[dict[str, float]]) -> str:
    """Formats what was computed on paper."""
    columns = [
        *("GPUs", "texts in all", "sent for the losses", "for DDP", "memory of β-CAL", "T × T would take"),
        *("exchange", "losses", "towers", "exchange's share"),
    ]
    rows = []
    for result in paper:
        sizes = ("sent_bytes", "gradient_bytes", "loss_bytes", "square_bytes")
        times = ("exchange_seconds", "losses_seconds", "towers_seconds")
        row = [
            result["processes"],
            f"{result['texts']:,}",
            *(f"{result[name] / 1e6:,.0f} MB" for name in sizes),
            *(f"{1e3 * result[name]:.1f} ms" for name in times),
            f"{100 * result['exchange_share']:.1f} %",
        ]
        rows.append(row)
    return markdown_table(columns, rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], help="processes to measure (1 2 4)")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each kind (%(default)s)")
    parser.add_argument("--images", type=int, help="images per process (16 measured, 64 on paper)")
    parser.add_argument("--kind", default="ce", choices=["ce", "bce"], help="kind of β-CAL (%(default)s)")
    parser.add_argument(
        "--dense-limit",
        type=int,
        default=0,
        help="logits of an untiled loss (%(default)s)",
    )
    parser.add_argument("--paper", action="store_true", help="compute on paper only")
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 512], help="on paper: GPUs (8 64 512)")
    parser.add_argument("--width", type=int, default=512, help="on paper: D (%(default)s)")
    parser.add_argument("--parameters", type=float, default=153, help="on paper: 10⁶ parameters of DDP (%(default)s)")
    parser.add_argument("--inside", type=float, default=450, help="on paper: GB/s of a GPU in its node (%(default)s)")
    parser.add_argument("--between", type=float, default=50, help="on paper: GB/s of a GPU between nodes (%(default)s)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="on paper: GPUs of a node (%(default)s)")
    parser.add_argument("--latency", type=float, default=30, help="on paper: µs of an operation (%(default)s)")
    parser.add_argument("--loss-rate", type=float, default=40, help="on paper: TFLOP/s of the losses (%(default)s)")
    parser.add_argument(
        "--tower-seconds", type=float, default=0.05, help="on paper: seconds of the towers (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    args = parser.parse_args()
    images_on_paper = args.images or 64
    args.images = args.images or 16
    measured = [] if args.paper else [measure(processes, args) for processes in args.processes]
    paper = [on_paper(gpus, images_on_paper, args) for gpus in args.gpus]
    tables = [paper_table(paper)]
    if measured:
        tables.insert(0, measured_table(measured))
    title = f"Weak scaling over gloo processes, median of {args.repeats}, and on paper"
    results = {"measured": measured, "paper": paper}
    write_report(args.output / "weak_scaling", title, "\n\n".join(tables), results, settings=vars(args))


if __name__ == "__main__":
    main()
