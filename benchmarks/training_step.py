"""One training step of β-CLIP (loss and gradients) against the same step as it is usually written (reference_step.py).

    python benchmarks/training_step.py --preset quick        # a small model, minutes
    python benchmarks/training_step.py --preset full         # ViT-B/16; B = 4 and 8 on a CPU, 64 on a GPU

Same weights, same batch of K = 36 texts an image, equal loss asserted. All steps run in turn in one process; ratios are
of steps of the same round, figures are medians. Peak memory is that of tensors above the weights, gradients included;
on a CPU also that of a process of its own. The table goes to `--output`, with a JSON of all figures.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, format_spread, spread, table_row, write_report
from step_batch import make_batch
from step_variants import REFERENCE, Step, micro_batches, parts_off, repetitions, settings
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

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
# Phrases of each image that are those of the first one, where equal texts are measured. At 64 images 9 % of the texts
# of IIW-400's descriptions occurred before, at 8 images 2 %, at 4 images 1 %.
REPEATED_PHRASES = 3
BACKWARD = "backward pass"


def build(preset: str, device: str) -> BetaCLIPModel:
    torch.manual_seed(0)
    return BetaCLIPModel(BetaCLIPConfig(**PRESETS[preset]["config"])).to(device).train()


GROUPS = ("settings", "parts_off", "repetitions")


def measure(preset: str, batch_size: int, device: str, rounds: int, chosen: Sequence[str] = GROUPS) -> dict[str, Any]:
    """All figures of one size: of each setting with the reference and, as chosen, of each part off."""
    model = build(preset, device)
    image_size = model.config.vision_config.image_size
    batch = make_batch(batch_size, image_size, device)
    groups = {
        "settings": settings(model, batch),
        "parts_off": parts_off(model, batch) | {"two micro-batches, cached gradients": micro_batches(model, batch)},
        "repetitions": repetitions(model, make_batch(batch_size, image_size, device, repeated=REPEATED_PHRASES)),
    }
    groups = {name: group for name, group in groups.items() if name in chosen}
    steps = {name: step for group in groups.values() for name, step in group.items()}
    counted = {name: count_flops(step) for name, step in steps.items()}
    assert_equal_losses(groups, {name: loss for name, (loss, _) in counted.items()}, tolerance(device))
    memory = {name: tensor_bytes(model, step) for name, step in steps.items()}
    seconds, rates = in_turn(steps, device, rounds)
    results: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        whole = seconds["equal texts once" if "equal texts once" in group else "package"]
        for name in group:
            median = statistics.median(seconds[name])
            results[name] = {
                "seconds": spread(seconds[name]),
                "images_per_second": batch_size / median,
                "speed_up": ratios(seconds[REFERENCE], seconds[name]),
                "time_ratio": ratios(seconds[name], whole),
                "flops": counted[name][1],
                "share_of_matmul_rate": counted[name][1] / median / statistics.median(rates),
                "kept_bytes": memory[name][0],
                "peak_bytes": memory[name][1],
            }
    if device == "cpu":
        for name in groups["settings"]:
            results[name]["process_bytes"] = process_bytes(preset, batch_size, name)
    return {
        "preset": preset,
        "batch_size": batch_size,
        "tokens": batch.tokens,
        "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "matmul_flops_per_second": spread(rates),
        "groups": {group: list(of_group) for group, of_group in groups.items()},
        "steps": results,
    }


def in_turn(steps: dict[str, Step], device: str, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each step, round by round, and the rates of a matrix product between them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for _ in range(rounds):
        rates.append(matmul_rate(device))
        for name, step in steps.items():
            seconds[name].append(timed(step, device))
    return seconds, rates


def tolerance(device: str) -> float:
    return 2e-2 if device == "cuda" else 1e-5  # of bfloat16, of float32


def assert_equal_losses(groups: dict[str, dict[str, Step]], losses: dict[str, float], relative: float) -> None:
    for group, steps in groups.items():
        expected = losses[REFERENCE if group != "repetitions" else next(iter(steps))]
        for name in steps:
            assert abs(losses[name] - expected) <= relative * expected, (name, losses[name], expected)


def count_flops(step: Step) -> tuple[float, int]:
    """The loss of a step and the floating-point operations of its matrix products and attention, both passes."""

    def of_forward(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def of_backward(
        gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kw: Any
    ) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    kernels = {  # which torch counts on a GPU only
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: of_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        loss = step(lambda: None)
    return loss.item(), counter.get_total_flops()


def tensor_bytes(model: BetaCLIPModel, step: Step) -> tuple[int, int]:
    """Bytes of tensors above the weights: those alive before the backward pass, and the most alive at any time."""
    model.zero_grad()
    if model.device.type == "cuda":
        before, alive = torch.cuda.memory_allocated(), []
        torch.cuda.reset_peak_memory_stats()
        step(lambda: alive.append(torch.cuda.memory_allocated()))
        return max(alive) - before, torch.cuda.max_memory_allocated() - before

    def mark() -> None:
        with record_function(BACKWARD):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(mark)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = sorted(json.loads(path.read_text())["traceEvents"], key=lambda event: event.get("ts", 0))
    alive_bytes, kept, peak = 0, 0, 0
    for event in events:
        if event.get("name") == "[memory]":
            alive_bytes += event["args"]["Bytes"]
            peak = max(peak, alive_bytes)
        elif event.get("name") == BACKWARD:
            kept = max(kept, alive_bytes)
    return kept, peak


def process_bytes(preset: str, batch_size: int, name: str) -> int:
    """The most memory of a process that does one step, above what it has before it."""
    words = ["--preset", preset, "--peak-of", name, "--batch-size", str(batch_size), "--device", "cpu"]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def print_peak(preset: str, batch_size: int, name: str) -> None:
    model = build(preset, "cpu")
    image_size = model.config.vision_config.image_size
    settings(model, make_batch(2, image_size, "cpu"))[name](lambda: None)  # what the libraries take once
    step = settings(model, make_batch(batch_size, image_size, "cpu"))[name]
    model.zero_grad()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # Not `ru_maxrss`: a process starts with the mark of the one that started it.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_of_process("VmRSS")
    step(lambda: None)
    sys.stdout.write(f"{memory_of_process('VmHWM') - before}\n")


def memory_of_process(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def timed(step: Step, device: str) -> float:
    start = time.perf_counter()
    step(lambda: None)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_rate(device: str) -> float:
    """Operations per second of one large matrix product, in the precision of the steps."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty(size, size, device=device, dtype=dtype)

    def multiply(mark: Any) -> Tensor:
        return torch.mm(left, right, out=product)

    return 2 * size**3 / min(timed(multiply, device) for _ in range(3))


def ratios(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


def markdown(results: list[dict[str, Any]]) -> str:
    columns = ("", "B", "images/s", "against the reference", "GFLOP", "of the matmul rate", "kept", "peak", "process")
    lines = ["By the checkpointing of the towers:", "", table_row(*columns), "|---" * len(columns) + "|"]
    for one in results:
        for name in one["groups"]["settings"]:
            step, theirs = one["steps"][name], one["steps"][REFERENCE]
            lines.append(
                table_row(
                    f"{one['preset']}: {name}",
                    one["batch_size"],
                    f"{step['images_per_second']:.2f}",
                    format_spread(step["speed_up"]),
                    f"{step['flops'] / 1e9:,.0f}",
                    f"{step['share_of_matmul_rate']:.0%}",
                    mebibytes(step["kept_bytes"]),
                    *(
                        f"{mebibytes(step[kind])}, {step[kind] / theirs[kind]:.2f}" if kind in step else ""
                        for kind in ("peak_bytes", "process_bytes")
                    ),
                )
            )
    columns = ("", "B", "time", "GFLOP", "kept", "peak")
    title_lines = ["", "With one part off, or in micro-batches:", "", table_row(*columns), "|---" * len(columns) + "|"]
    for one in results:
        for name in one["groups"].get("parts_off", []) + one["groups"].get("repetitions", []):
            step = one["steps"][name]
            sizes = (mebibytes(step["kept_bytes"]), mebibytes(step["peak_bytes"]))
            time_and_work = (format_spread(step["time_ratio"]), f"{step['flops'] / 1e9:,.0f}")
            lines += [*title_lines, table_row(f"{one['preset']}: {name}", one["batch_size"], *time_and_work, *sizes)]
            title_lines = []
    return "\n".join([*lines, "", *(footnote(one) for one in results)])


def mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def footnote(one: dict[str, Any]) -> str:
    tokens, rate = one["tokens"], one["matmul_flops_per_second"]["median"]
    return (
        f"{one['preset']}, B = {one['batch_size']}: {tokens['real']} text tokens, {tokens['package']} computed, "
        f"{tokens['reference']} by the reference; weights {mebibytes(one['weight_bytes'])}; "
        f"one large matrix product: {rate / 1e9:,.0f} GFLOP/s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS))
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for the JSON and the table (%(default)s)")
    parser.add_argument("--batch-size", type=int, help="one instead of those of the preset")
    parser.add_argument("--rounds", type=int, help="of timing, instead of those of the preset")
    parser.add_argument("--groups", nargs="*", choices=GROUPS[1:], default=GROUPS[1:], help="parts to turn off (all)")
    parser.add_argument("--device", default="cuda" if ON_GPU else "cpu", help="(%(default)s)")
    parser.add_argument("--peak-of", help="print the bytes of the process of one step, by its name, and stop")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    sizes = [args.batch_size] if args.batch_size else preset["batch_sizes"]
    if args.peak_of:
        print_peak(args.preset, sizes[0], args.peak_of)
        return
    rounds, groups = args.rounds or preset["rounds"], ["settings", *args.groups]
    results = [measure(args.preset, size, args.device, rounds, groups) for size in sizes]
    path = args.output / f"training_step_{args.preset}{f'_{args.batch_size}' if args.batch_size else ''}"
    title = f"A training step and its reference, median of {rounds} rounds"
    write_report(path, title, markdown(results), results, device=args.device, settings=vars(args))


if __name__ == "__main__":
    main()
