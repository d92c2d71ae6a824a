"""Compares a training step of β-CLIP (loss and gradients) with the step as it is usually written (reference_step.py).

    python benchmarks/training_step.py --preset quick        # a small model, minutes
    python benchmarks/training_step.py --preset full         # ViT-B/16; B = 4 and 8 on a CPU, 64 on a GPU

Both have the same weights and the same batch of 36 texts an image, and must give equal losses. All steps run in turn in
one process; ratios are of steps of the same round, and the table has medians. Peak memory is that of tensors above the
weights, gradients included; on a CPU also that of a process for each step. The table goes to `--output`, with a JSON of
all numbers.
"""

import argparse
import ctypes
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, format_spread, markdown_table, spread, write_report
from step_batch import make_batch
from step_costs import count_flops, memory_of_process, reset_peak_of_process, tensor_bytes
from step_variants import REFERENCE, Step, micro_batches, parts_off, repetitions, settings
from torch import Tensor

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel


SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL_VISION = {**SMALL, "image_size": 112, "patch_size": 16}
ON_GPU = torch.cuda.is_available()
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "config": {"projection_dim": 256, "text_config": SMALL, "vision_config": SMALL_VISION},
        "batch_sizes": [4],
        "rounds": 5,
    },
    "full": {
        "config": {"vision_config": {"patch_size": 16}},
        "batch_sizes": [64] if ON_GPU else [4, 8],
        "rounds": 20 if ON_GPU else 5,
    },
}
# The groups of steps. The first is always measured.
GROUPS = ("settings", "parts_off", "repetitions")
# Equal texts are measured with this many phrases of each image that are those of the first one. At 64 images 9 % of the
# texts of IIW-400's descriptions occurred before, at 8 images 2 %, at 4 images 1 %.
REPEATED_PHRASES = 3


def build(preset: str, device: str) -> BetaCLIPModel:
    """Returns a new model of a preset, in training mode."""
    torch.manual_seed(0)
    return BetaCLIPModel(BetaCLIPConfig(**PRESETS[preset]["config"])).to(device).train()


def make_groups(
    model: BetaCLIPModel, batch: Any, batch_size: int, device: str, chosen: Sequence[str]
) -> dict[str, dict[str, Step]]:
    """Returns the chosen groups of steps by name."""
    groups = {}
    if "settings" in chosen:
        groups["settings"] = settings(model, batch)
    if "parts_off" in chosen:
        groups["parts_off"] = parts_off(model, batch)
        groups["parts_off"]["two micro-batches, cached gradients"] = micro_batches(model, batch)
    if "repetitions" in chosen:
        image_size = model.config.vision_config.image_size
        repeating = make_batch(batch_size, image_size, device, repeated=REPEATED_PHRASES)
        groups["repetitions"] = repetitions(model, repeating)
    return groups


def measure(preset: str, batch_size: int, device: str, rounds: int, chosen: Sequence[str] = GROUPS) -> dict[str, Any]:
    """Returns all numbers of one batch size, for the steps of the chosen groups."""
    model = build(preset, device)
    batch = make_batch(batch_size, model.config.vision_config.image_size, device)
    groups = make_groups(model, batch, batch_size, device, chosen)
    steps: dict[str, Step] = {}
    for group in groups.values():
        steps |= group
    losses, flops = {}, {}
    for name, step in steps.items():
        losses[name], flops[name] = count_flops(step)
    assert_equal_losses(groups, losses, tolerance(device))
    memory = {name: tensor_bytes(model, step) for name, step in steps.items()}
    seconds, rates = in_turn(steps, device, rounds)
    matmul_rate_median = statistics.median(rates)
    results: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        base = "equal texts once" if "equal texts once" in group else "package"
        for name in group:
            median = statistics.median(seconds[name])
            kept, peak = memory[name]
            results[name] = {
                "seconds": spread(seconds[name]),
                "images_per_second": batch_size / median,
                "speed_up": ratios(seconds[REFERENCE], seconds[name]),
                "time_ratio": ratios(seconds[name], seconds[base]),
                "flops": flops[name],
                "share_of_matmul_rate": flops[name] / median / matmul_rate_median,
                "kept_bytes": kept,
                "peak_bytes": peak,
            }
    if device == "cpu":
        for name in groups["settings"]:
            results[name]["process_bytes"] = process_bytes(preset, batch_size, name)
    return {
        "preset": preset,
        "batch_size": batch_size,
        "tokens": batch.tokens,
        "weight_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "matmul_flops_per_second": spread(rates),
        "groups": {name: list(group) for name, group in groups.items()},
        "steps": results,
    }


def in_turn(steps: dict[str, Step], device: str, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Returns the seconds of each step, round by round, and the rates of a matrix product between the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for _ in range(rounds):
        rates.append(matmul_rate(device))
        for name, step in steps.items():
            seconds[name].append(timed(step, device))
    return seconds, rates


def tolerance(device: str) -> float:
    """Returns the relative difference of losses that rounding explains: bfloat16 on a GPU, float32 on a CPU."""
    return 2e-2 if device == "cuda" else 1e-5


def assert_equal_losses(groups: dict[str, dict[str, Step]], losses: dict[str, float], relative: float) -> None:
    """Checks that all steps of a group have the loss of the reference, or of the first step on repeated texts."""
    for group, steps in groups.items():
        base = next(iter(steps)) if group == "repetitions" else REFERENCE
        expected = losses[base]
        for name in steps:
            assert abs(losses[name] - expected) <= relative * expected, (name, losses[name], expected)


def process_bytes(preset: str, batch_size: int, name: str) -> int:
    """Returns the most memory that a new process takes for one step, above what it has before."""
    words = ["--preset", preset, "--peak-of", name, "--batch-size", str(batch_size), "--device", "cpu"]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def print_peak(preset: str, batch_size: int, name: str) -> None:
    """Prints the bytes of [`process_bytes`], in its process."""
    model = build(preset, "cpu")
    image_size = model.config.vision_config.image_size
    # A small step first: what the libraries allocate once does not count.
    settings(model, make_batch(2, image_size, "cpu"))[name](lambda: None)
    step = settings(model, make_batch(batch_size, image_size, "cpu"))[name]
    model.zero_grad()
    # Freed memory goes back to the system, so that the step has to ask for it again.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset_peak_of_process()
    before = memory_of_process("VmRSS")
    step(lambda: None)
    sys.stdout.write(f"{memory_of_process('VmHWM') - before}\n")


def timed(step: Step, device: str) -> float:
    """Returns the seconds of a step."""
    start = time.perf_counter()
    step(lambda: None)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_rate(device: str) -> float:
    """Returns the operations per second of a large matrix product, in the precision of the steps."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    product = torch.empty(size, size, device=device, dtype=dtype)

    def multiply(mark: Any) -> Tensor:
        return torch.mm(left, right, out=product)

    return 2 * size**3 / min(timed(multiply, device) for _ in range(3))


def ratios(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Returns the spread of the ratios, round by round."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


def markdown(results: list[dict[str, Any]]) -> str:
    """Formats the tables of all batch sizes."""
    columns = ("", "B", "images/s", "against the reference", "GFLOP", "of the matmul rate", "kept", "peak", "process")
    rows = []
    for result in results:
        for name in result["groups"]["settings"]:
            rows.append(settings_row(result, name))
    lines = ["By the checkpointing of the towers:", "", markdown_table(columns, rows)]
    other_rows = []
    for result in results:
        for name in result["groups"].get("parts_off", []) + result["groups"].get("repetitions", []):
            other_rows.append(parts_row(result, name))
    if other_rows:
        columns = ("", "B", "time", "GFLOP", "kept", "peak")
        lines += ["", "With one part off, or in micro-batches:", "", markdown_table(columns, other_rows)]
    return "\n".join([*lines, "", *(footnote(result) for result in results)])


def settings_row(result: dict[str, Any], name: str) -> list[Any]:
    """Returns the row of a step in the first table."""
    step, reference = result["steps"][name], result["steps"][REFERENCE]
    sizes = []
    for kind in ("peak_bytes", "process_bytes"):
        # The memory of a process is measured on a CPU only.
        sizes.append(f"{mebibytes(step[kind])}, {step[kind] / reference[kind]:.2f}" if kind in step else "")
    return [
        f"{result['preset']}: {name}",
        result["batch_size"],
        f"{step['images_per_second']:.2f}",
        format_spread(step["speed_up"]),
        f"{step['flops'] / 1e9:,.0f}",
        f"{step['share_of_matmul_rate']:.0%}",
        mebibytes(step["kept_bytes"]),
        *sizes,
    ]


def parts_row(result: dict[str, Any], name: str) -> list[Any]:
    """Returns the row of a step in the second table."""
    step = result["steps"][name]
    return [
        f"{result['preset']}: {name}",
        result["batch_size"],
        format_spread(step["time_ratio"]),
        f"{step['flops'] / 1e9:,.0f}",
        mebibytes(step["kept_bytes"]),
        mebibytes(step["peak_bytes"]),
    ]


def mebibytes(count: int) -> str:
    """Formats bytes in MiB."""
    return f"{count / 2**20:,.0f} MiB"


def footnote(result: dict[str, Any]) -> str:
    """Returns a sentence on the batch and the machine."""
    tokens, rate = result["tokens"], result["matmul_flops_per_second"]["median"]
    return (
        f"{result['preset']}, B = {result['batch_size']}: {tokens['real']} text tokens, {tokens['package']} computed, "
        f"{tokens['reference']} by the reference; weights {mebibytes(result['weight_bytes'])}; "
        f"one large matrix product: {rate / 1e9:,.0f} GFLOP/s."
    )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS), help="size of the model (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    parser.add_argument("--batch-size", type=int, help="number of images (those of the preset)")
    parser.add_argument("--rounds", type=int, help="timed rounds (those of the preset)")
    parser.add_argument("--groups", nargs="*", choices=GROUPS[1:], default=GROUPS[1:], help="other steps (all)")
    parser.add_argument("--device", default="cuda" if ON_GPU else "cpu", help="where to run (%(default)s)")
    parser.add_argument("--peak-of", metavar="STEP", help="print the bytes of a process for this step, and stop")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    sizes = [args.batch_size] if args.batch_size else preset["batch_sizes"]
    if args.peak_of:
        print_peak(args.preset, sizes[0], args.peak_of)
        return
    rounds, groups = args.rounds or preset["rounds"], ["settings", *args.groups]
    results = [measure(args.preset, size, args.device, rounds, groups) for size in sizes]
    name = f"training_step_{args.preset}"
    if args.batch_size:
        name += f"_{args.batch_size}"
    title = f"A training step and its reference, median of {rounds} rounds"
    write_report(args.output / name, title, markdown(results), results, device=args.device, settings=vars(args))


if __name__ == "__main__":
    main()
