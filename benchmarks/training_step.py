"""One training step of β-CLIP (loss and gradients) against the same step as it is usually written (reference_step.py).

    python benchmarks/training_step.py --preset quick        # a small model, a minute
    python benchmarks/training_step.py --preset full         # ViT-B/16, K = 36; B = 4 and 8 on a CPU, 64 on a GPU

Same weights, same batch, equal loss asserted; both run in turn in one process, and the figures are medians. The peak of
memory is measured by one process each, above what the weights and their gradients take. Text lengths are drawn to the
statistics of the paper's data: captions of about 150 tokens, five sentences of a caption, 30 phrases of 4.4 words.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reference_step import reference_loss

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.evaluation.results import environment


START, END = 49406, 49407
SENTENCES, PHRASES = 5, 30
SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "config": {
            "projection_dim": 256,
            "text_config": SMALL,
            "vision_config": {**SMALL, "image_size": 112, "patch_size": 16},
        },
        "batch_sizes": [4, 8],
        "repeats": 5,
    },
    "full": {
        "config": {
            "vision_config": {"patch_size": 16},
        },
        "batch_sizes": [64] if torch.cuda.is_available() else [4, 8],
        "repeats": 20 if torch.cuda.is_available() else 3,
    },
}


def build(preset: str, device: str) -> BetaCLIPModel:
    torch.manual_seed(0)
    return BetaCLIPModel(BetaCLIPConfig(**PRESETS[preset]["config"])).to(device).train()


def text(length: int, generator: torch.Generator) -> list[int]:
    return [START, *torch.randint(0, 49000, (length - 2,), generator=generator).tolist(), END]


def draw_texts(batch_size: int) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """Per image its caption and sentences, and its phrases, as token ids; every image has the same number of each."""
    generator = torch.Generator().manual_seed(0)

    def normal(mean: float, deviation: float, low: int, high: int) -> int:
        value = mean + deviation * torch.randn((), generator=generator).item()
        return int(min(max(value, low), high))

    long, phrases = [], []
    for _ in range(batch_size):
        sentences = [normal(30, 9, 8, 60) for _ in range(SENTENCES)]
        caption = min(248, sum(sentences) - 2 * (SENTENCES - 1))
        long.append([text(length, generator) for length in (caption, *sentences)])
        # A geometric tail: the mean is 4.4 tokens and the two at the ends, few have more than 12.
        words = torch.empty(PHRASES).geometric_(1 / 3.4, generator=generator).long().clamp(max=28) + 1
        phrases.append([text(int(count) + 2, generator) for count in words])
    return long, phrases


def padded(groups: list[list[list[int]]]) -> torch.Tensor:
    longest = max(len(ids) for group in groups for ids in group)
    return torch.tensor([[ids + [END] * (longest - len(ids)) for ids in group] for group in groups])


def make_batch(batch_size: int, image_size: int, device: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """The batch of the package, that of the reference, and how many tokens each has."""
    long, phrases = draw_texts(batch_size)
    pixel_values = torch.randn(batch_size, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    texts = [[*of_long, *of_phrases] for of_long, of_phrases in zip(long, phrases, strict=True)]
    count = 1 + SENTENCES + PHRASES
    ours = {
        "pixel_values": pixel_values,
        "input_ids": padded([[ids for of_image in texts for ids in of_image]])[0],
        "image_index": torch.arange(batch_size).repeat_interleave(count),
        "granularity": torch.tensor([0, *[1] * SENTENCES, *[2] * PHRASES]).repeat(batch_size),
    }
    theirs = {"pixel_values": pixel_values, "long_ids_BKL": padded(long), "phrase_ids_BKL": padded(phrases)}
    tokens = {
        "real": sum(len(ids) for of_image in texts for ids in of_image),
        "padded": theirs["long_ids_BKL"].numel() + theirs["phrase_ids_BKL"].numel(),
    }
    return (
        {name: value.to(device) for name, value in ours.items()} | {"return_loss": True},
        {name: value.to(device) for name, value in theirs.items()},
        tokens,
    )


def steps(model: BetaCLIPModel, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Callable[[], torch.Tensor]]:
    """What is compared: each gives the loss and leaves gradients. The second one recomputes the text tower as well."""
    on_gpu = model.device.type == "cuda"

    def step(loss_of: Callable[[], torch.Tensor]) -> torch.Tensor:
        model.zero_grad(set_to_none=False)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=on_gpu):
            loss = loss_of()
        loss.backward()
        if on_gpu:
            torch.cuda.synchronize()
        return loss.detach()

    def recomputed() -> torch.Tensor:
        model.text_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            return step(lambda: model(**ours).loss)
        finally:
            model.text_model.gradient_checkpointing_disable()

    return {
        "package": lambda: step(lambda: model(**ours).loss),
        "package_recomputed": recomputed,
        "reference": lambda: step(lambda: reference_loss(model, **theirs)),
    }


def measure(preset: str, batch_size: int, device: str) -> dict[str, Any]:
    model = build(preset, device)
    ours, theirs, tokens = make_batch(batch_size, model.config.vision_config.image_size, device)
    compared = steps(model, ours, theirs)
    losses = {name: step().item() for name, step in compared.items()}
    tolerance = 2e-2 if device == "cuda" else 1e-4
    for loss in losses.values():
        assert abs(loss - losses["reference"]) < tolerance * losses["reference"], losses
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(PRESETS[preset]["repeats"]):
        for name, step in compared.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: [theirs / own for own, theirs in zip(seconds[name], seconds["reference"], strict=True)]
        for name in compared
    }
    return {
        "preset": preset,
        "batch_size": batch_size,
        "tokens": tokens,
        "losses": losses,
        "seconds": {
            name: {"median": statistics.median(s), "min": min(s), "max": max(s)} for name, s in seconds.items()
        },
        "images_per_second": {name: batch_size / statistics.median(s) for name, s in seconds.items()},
        "speed_up": {
            name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()
        },
        "peak_bytes": {name: peak_memory(preset, batch_size, device, name) for name in compared},
    }


def peak_memory(preset: str, batch_size: int, device: str, name: str) -> int:
    """Bytes of a process that does one of the two steps, above those it has with the weights and their gradients."""
    words = ["--preset", preset, "--peak-of", name, "--batch-size", str(batch_size), "--device", device]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def print_peak(preset: str, batch_size: int, device: str, name: str) -> None:
    model = build(preset, device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ours, theirs, _ = make_batch(batch_size, model.config.vision_config.image_size, device)
    small_ours, small_theirs, _ = make_batch(1, model.config.vision_config.image_size, device)
    steps(model, small_ours, small_theirs)[name]()  # what the libraries take once
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps(model, ours, theirs)[name]()
        sys.stdout.write(f"{torch.cuda.max_memory_allocated() - before}\n")
    else:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        steps(model, ours, theirs)[name]()
        sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before}\n")


def markdown(results: list[dict[str, Any]]) -> str:
    columns = ["", "B", "step", "images/s", "against the reference (spread)", "peak memory", "of the reference's"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in results:
        for name, rate in one["images_per_second"].items():
            ratio, peak = one["speed_up"][name], one["peak_bytes"]
            spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} – {ratio['max']:.2f})"
            lines.append(
                f"| {one['preset']} | {one['batch_size']} | {name.replace('_', ', ')} | {rate:.2f} | {spread} "
                f"| {peak[name] / 2**20:.0f} MiB | {peak[name] / peak['reference']:.2f} |"
            )
    of_tokens = (f"{one['tokens']['real']} / {one['tokens']['padded']} (B = {one['batch_size']})" for one in results)
    return "\n".join([*lines, "", f"Text tokens, real / with the reference's padding: {', '.join(of_tokens)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS))
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench"), help="for the JSON and the table (%(default)s)"
    )
    parser.add_argument("--batch-size", type=int, help="one instead of those of the preset")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument(
        "--peak-of", choices=["package", "package_recomputed", "reference"], help="print the bytes of one step and stop"
    )
    args = parser.parse_args()
    if args.peak_of:
        print_peak(args.preset, args.batch_size, args.device, args.peak_of)
        return
    sizes = [args.batch_size] if args.batch_size else PRESETS[args.preset]["batch_sizes"]
    results = [measure(args.preset, size, args.device) for size in sizes]
    args.output.mkdir(parents=True, exist_ok=True)
    written = {"environment": environment(torch.device(args.device)), "threads": torch.get_num_threads()}
    path = args.output / f"training_step_{args.preset}.json"
    path.write_text(json.dumps(written | {"results": results}, indent=2) + "\n")
    table = markdown(results)
    path.with_suffix(".md").write_text(table + "\n")
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
