"""Measures a whole training step with one switch changed: half blocks, mixed precision, `torch_compile`, which AdamW.

    python benchmarks/step_switches.py --preset quick                     # a small model
    python benchmarks/step_switches.py --preset full --also compiled      # ViT-B/16, with minutes of compilation

The step is loss, gradients and optimiser. All run in turn in one process, and ratios are of steps of the same round.
The plain step is that of the Trainer on this device: fused AdamW, not compiled; float32 on a CPU, bfloat16 on a GPU.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from report import OUTPUT, format_spread, markdown_table, spread, write_report
from step_batch import make_batch
from step_variants import Mark, Step
from torch import Tensor
from training_step import ON_GPU, PRESETS, build, in_turn, ratios

from beta_clip_hf import BetaCLIPModel


PLAIN = "plain"
# A CPU without units for bfloat16 takes dozens of times as long.
SLOW = ("autocast", "compiled")
ADAMW: dict[str, dict[str, Any]] = {
    PLAIN: {"fused": True},
    "AdamW, foreach": {"foreach": True},
    "AdamW, a loop": {"foreach": False},
}


class Way(NamedTuple):
    """A way to take a step."""

    model: Any
    dtype: torch.dtype
    optimizer: torch.optim.Optimizer
    half_blocks: bool = True


def make_steps(model: BetaCLIPModel, batch: dict[str, Any], device: str, also: Sequence[str]) -> dict[str, Step]:
    """Returns the steps by what is changed in them."""
    optimizers = {}
    for name, options in ADAMW.items():
        # A learning rate of 0 keeps the weights, and costs the same.
        optimizers[name] = torch.optim.AdamW(model.parameters(), lr=0.0, **options)
    if device == "cuda":
        dtype, other_dtype, other_name = torch.bfloat16, torch.float32, "float32"
    else:
        dtype, other_dtype, other_name = torch.float32, torch.bfloat16, "autocast in bfloat16"
    ways = {name: Way(model, dtype, optimizer) for name, optimizer in optimizers.items()}
    ways["half blocks off"] = Way(model, dtype, optimizers[PLAIN], half_blocks=False)
    if "autocast" in also:
        ways[other_name] = Way(model, other_dtype, optimizers[PLAIN])
    if "compiled" in also:
        ways["compiled"] = Way(torch.compile(model), dtype, optimizers[PLAIN])

    def make_step(way: Way) -> Step:
        def step(mark: Mark) -> Tensor:
            way.optimizer.zero_grad()
            model.half_blocks = way.half_blocks
            with torch.autocast(device, torch.bfloat16, enabled=way.dtype == torch.bfloat16):
                loss = way.model(**batch).loss
            loss.backward()
            way.optimizer.step()
            return loss.detach()

        return step

    return {name: make_step(way) for name, way in ways.items()}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS), help="size of the model (%(default)s)")
    parser.add_argument("--batch-size", type=int, help="number of images (the first of the preset)")
    parser.add_argument(
        "--also",
        nargs="*",
        choices=SLOW,
        default=SLOW if ON_GPU else [],
        help="steps that take long on a CPU (all on a GPU, none on a CPU)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each kind (%(default)s)")
    parser.add_argument("--device", default="cuda" if ON_GPU else "cpu", help="where to run (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    args = parser.parse_args()
    size = args.batch_size or PRESETS[args.preset]["batch_sizes"][0]
    model = build(args.preset, args.device)
    batch = make_batch(size, model.config.vision_config.image_size, args.device).package
    steps = make_steps(model, batch, args.device, args.also)
    # The first step compiles, and makes the states of the optimisers.
    losses = {name: step(lambda: None).item() for name, step in steps.items()}
    for name, loss in losses.items():
        assert abs(loss - losses[PLAIN]) <= 2e-2 * losses[PLAIN], (name, losses)
    seconds, _ = in_turn(steps, args.device, args.rounds)
    results = {}
    rows = []
    for name in steps:
        times, time_ratio = spread(seconds[name]), ratios(seconds[name], seconds[PLAIN])
        results[name] = {"seconds": times, "time_ratio": time_ratio}
        rows.append([name, f"{times['median']:.3f} s", format_spread(time_ratio)])
    title = f"A step of {size} images ({args.preset}) with one switch changed, median of {args.rounds} rounds"
    table = markdown_table(("", "time", "of the plain one"), rows)
    path = args.output / f"step_switches_{args.preset}"
    write_report(path, title, table, results, device=args.device, settings=vars(args))


if __name__ == "__main__":
    main()
