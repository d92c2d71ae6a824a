"""A training step on 1, 2 and 4 processes with a batch each, and what the losses would send and hold on many GPUs.

    python benchmarks/weak_scaling.py --save runs/bench/weak_scaling.json    # measured, gloo on the CPU, and on paper
    python benchmarks/weak_scaling.py --paper --images 256 --kind bce        # on paper alone

Measured: each process has one thread, the same number of images and 36 texts per image; steps with the losses over all
processes and over the own batch alone take turns. Processes beyond the number of cores share these, so that the time of
a step is also given times cores per process; and there is the CPU time that a process used, which other work on the
machine moves least. On paper: bytes are counted, see `step_collectives`, which a test
compares with what is sent; bandwidths, latency, and the speed of towers and losses are arguments, not measurements.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from report import OUTPUT, format_spread, spread, write_report
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
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
Collectives = list[tuple[str, int]]


def step_collectives(
    images: Sequence[int], texts: Sequence[int], width: int, *, kind: str = "ce", dense_limit: float | None = None
) -> dict[str, Collectives]:
    """
    What the losses of one step (`clip_loss` and β-CAL) exchange: operation and bytes of the tensor of all processes.

    Args:
        images, texts: of each process.
        width: D.
        kind: "ce" or "bce".
        dense_limit: logits beyond which a loss is tiled and its work is shared; by default that of the package.
    """
    limit = paired_rows_beta_clip.DENSE_LIMIT if dense_limit is None else dense_limit
    of_images = contrast_collectives(images, width, "ce", has_ids=False, limit=limit)
    of_texts = contrast_collectives(texts, width, kind, has_ids=True, limit=limit)
    sizes = [("all_gather", 8 * 5 * len(images))]
    return {
        "forward": sizes + of_images["forward"] + of_texts["forward"],
        "backward": of_images["backward"] + of_texts["backward"],
    }


def contrast_collectives(
    rows: Sequence[int], width: int, kind: str, *, has_ids: bool, limit: float
) -> dict[str, Collectives]:
    """The part of one loss of embeddings in float32 and ids of int64; rows travel padded to the fullest process."""
    padded = len(rows) * max(rows)
    shared = sum(rows) ** 2 > limit
    sides = 1 if shared else 2  # of a shared loss the left side stays where it is
    forward = [("all_gather", 4 * padded * width)] * sides + [("all_gather", 8 * padded)] * has_ids
    backward = [("reduce_scatter", 4 * padded * width)] * sides
    if shared:
        forward.append(("all_reduce", 4))  # the value
        if kind == "ce":  # log-sum-exps over columns: their peaks, their sums, and a gradient for each
            forward += [("all_reduce", 4 * sum(rows))] * 2
            backward.append(("all_reduce", 4 * sum(rows)))
    return {"forward": forward, "backward": backward}


def sent_bytes(collectives: Collectives, processes: int) -> float:
    """What one process sends in a ring: all of a tensor but its own part, and that twice for an all-reduce."""
    trips = {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 2}
    return sum(trips[operation] * size for operation, size in collectives) * (processes - 1) / processes


def on_paper(processes: int, args: argparse.Namespace) -> dict[str, float]:
    """Bytes, memory and seconds of a step on so many GPUs."""
    texts, width = TEXTS_PER_IMAGE * args.images, args.width
    collectives = step_collectives([args.images] * processes, [texts] * processes, width, kind=args.kind)
    calls = collectives["forward"] + collectives["backward"]
    sent = sent_bytes(calls, processes)
    # A ring over several nodes leaves each of them once, spread over the network cards of all of its GPUs.
    one_node = processes <= args.gpus_per_node
    bandwidth = args.inside if one_node else min(args.inside, args.gpus_per_node * args.between)
    products = {"ce": 4, "bce": 3}[args.kind]
    operations = 2 * width * processes * (4 * args.images**2 + products * texts**2)
    seconds = {
        "exchange": sent / (1e9 * bandwidth) + 1e-6 * args.latency * len(calls),
        "losses": operations / (1e12 * args.loss_rate),
        "towers": args.tower_seconds,
    }
    return {
        "processes": processes,
        "texts": processes * texts,
        "sent_bytes": sent,
        "gradient_bytes": sent_bytes([("all_reduce", int(4e6 * args.parameters))], processes),
        "loss_bytes": 4 * 4 * processes * texts * width,  # at the peak, four tensors of all texts
        "square_bytes": 4 * (processes * texts) ** 2,
        "exchange_share": seconds["exchange"] / sum(seconds.values()),
        **{f"{name}_seconds": value for name, value in seconds.items()},
    }


def make_batch(images: int, seed: int) -> dict[str, Any]:
    """Captions of 60 tokens, sentences of 14, phrases of 6, and noise."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [60, *[14] * SENTENCES, *[6] * (TEXTS_PER_IMAGE - 1 - SENTENCES)] * images
    input_ids = torch.randint(0, START, (len(lengths), max(lengths)), generator=generator)
    input_ids[:, 0] = START
    input_ids[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None] - 1] = END
    kinds = [0, *[1] * SENTENCES, *[2] * (TEXTS_PER_IMAGE - 1 - SENTENCES)]
    return {
        "pixel_values": torch.randn(images, 3, 64, 64, generator=generator),
        "input_ids": input_ids,
        "image_index": torch.arange(images).repeat_interleave(TEXTS_PER_IMAGE),
        "granularity": torch.tensor(kinds * images),
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
    gathers = {"over all": ProcessGather(), "own batch": None}
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {way: [] for way in gathers} for clock in clocks}
    with model.module.loss_context(gather=ProcessGather()):
        model(**make_batch(1, seed=rank)).loss.backward()  # what the libraries take once
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for repeat in range(args.repeats + 1):
        for way, gather in gathers.items():
            model.zero_grad(set_to_none=False)
            dist.barrier()
            start = {name: clock() for name, clock in clocks.items()}
            with model.module.loss_context(gather=gather):
                model(**batch).loss.backward()
            dist.barrier()
            if repeat:
                for name, clock in clocks.items():
                    seconds[name][way].append(clock() - start[name])
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    Path(folder, f"{rank}.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak}))
    dist.barrier()
    dist.destroy_process_group()


def measure(processes: int, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(in_process, (processes, folder, args), nprocs=processes)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    # All wait for one another, so that the first process's clock is that of all.
    wall = found[0]["seconds"]["wall"]
    ratios = [over_all / own for over_all, own in zip(wall["over all"], wall["own batch"], strict=True)]
    median = statistics.median(wall["over all"])
    cpu = {way: statistics.mean(statistics.median(of_rank["seconds"]["cpu"][way]) for of_rank in found) for way in wall}
    cores = min(len(os.sched_getaffinity(0)), processes)
    return {
        "processes": processes,
        "texts": processes * args.images * TEXTS_PER_IMAGE,
        "step_seconds": median,
        "core_seconds": median * cores / processes,
        "cpu_seconds": cpu,
        "ratio": spread(ratios),
        "peak_bytes": max(of_rank["peak_bytes"] for of_rank in found),
    }


def markdown(measured: list[dict[str, Any]], paper: list[dict[str, float]]) -> str:
    lines = []
    if measured:
        columns = ["processes", "texts in all", "step", "× cores / processes", "of a step with local losses (spread)"]
        columns += ["CPU time of a process", "with local losses", "peak memory of the steps"]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in measured:
        ratio = format_spread(one["ratio"])
        lines.append(
            f"| {one['processes']} | {one['texts']:,} | {one['step_seconds']:.2f} s | {one['core_seconds']:.2f} s "
            f"| {ratio} | {one['cpu_seconds']['over all']:.2f} s | {one['cpu_seconds']['own batch']:.2f} s "
            f"| {one['peak_bytes'] / 2**20:.0f} MiB |"
        )
    columns = ["GPUs", "texts in all", "sent for the losses", "for DDP", "memory of β-CAL", "T × T would take"]
    columns += ["exchange", "losses", "towers", "exchange's share"]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for on_gpus in paper:
        times = (f"{1e3 * on_gpus[f'{name}_seconds']:.1f} ms" for name in ("exchange", "losses", "towers"))
        sizes = ("sent_bytes", "gradient_bytes", "loss_bytes", "square_bytes")
        cells = [
            f"{on_gpus['processes']}",
            f"{on_gpus['texts']:,}",
            *(f"{on_gpus[name] / 1e6:,.0f} MB" for name in sizes),
        ]
        share = f"{100 * on_gpus['exchange_share']:.1f} %"
        lines.append(f"| {' | '.join([*cells, *times, share])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], help="to measure (1 2 4)")
    parser.add_argument("--repeats", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--images", type=int, help="per process (16 measured, 64 on paper)")
    parser.add_argument("--kind", default="ce", choices=["ce", "bce"], help="of β-CAL (%(default)s)")
    parser.add_argument("--dense-limit", type=int, default=0, help="measured: tile beyond so many logits (%(default)s)")
    parser.add_argument("--paper", action="store_true", help="measure nothing")
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 512], help="on paper (8 64 512)")
    parser.add_argument("--width", type=int, default=512, help="on paper: D (%(default)s)")
    parser.add_argument("--parameters", type=float, default=153, help="on paper: millions, for DDP (%(default)s)")
    parser.add_argument("--inside", type=float, default=450, help="GB/s of a GPU in its node (%(default)s)")
    parser.add_argument("--between", type=float, default=50, help="GB/s of a GPU between nodes (%(default)s)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--latency", type=float, default=30, help="µs of each collective operation (%(default)s)")
    parser.add_argument("--loss-rate", type=float, default=40, help="float32 TFLOP/s of the losses (%(default)s)")
    parser.add_argument("--tower-seconds", type=float, default=0.05, help="of a step without losses (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    args = parser.parse_args()
    on_gpus = argparse.Namespace(**{**vars(args), "images": args.images or 64})
    args.images = args.images or 16
    measured = [] if args.paper else [measure(processes, args) for processes in args.processes]
    paper = [on_paper(gpus, on_gpus) for gpus in args.gpus]
    table = markdown(measured, paper)
    title = f"Weak scaling over gloo processes, median of {args.repeats}, and on paper"
    figures = {"measured": measured, "paper": paper}
    write_report(args.output / "weak_scaling", title, table, figures, settings=vars(args))


if __name__ == "__main__":
    main()
