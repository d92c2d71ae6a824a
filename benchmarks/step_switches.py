"""A whole training step with one switch changed: mixed precision, `torch_compile`, and which AdamW.

    python benchmarks/step_switches.py --preset quick                     # a small model
    python benchmarks/step_switches.py --preset full --also compiled      # ViT-B/16, with minutes of compilation

The step is loss, gradients and optimiser; all are run in turn in one process, and ratios are of steps of the same
round. The plain one is the Trainer's on this device: fused AdamW, not compiled; float32 on a CPU, bfloat16 on a GPU.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, format_spread, markdown_table, spread, write_report
from step_batch import make_batch
from torch import Tensor
from training_step import ON_GPU, PRESETS, build, in_turn, ratios

from beta_clip_hf import BetaCLIPModel


PLAIN = "plain"
SLOW = ("autocast", "compiled")  # a CPU without units for bfloat16 takes dozens of times as long
ADAMW: dict[str, dict[str, Any]] = {
    PLAIN: {"fused": True},
    "AdamW, foreach": {"foreach": True},
    "AdamW, a loop": {"foreach": False},
}


def switched(
    model: BetaCLIPModel, batch: dict[str, Any], device: str, also: Sequence[str]
) -> dict[str, Callable[..., Tensor]]:
    """The steps by what is changed in them. A learning rate of 0 leaves the weights as they are, and costs the same."""
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=0.0, **kind) for name, kind in ADAMW.items()}
    on_gpu = device == "cuda"

    def step(call: Any, dtype: torch.dtype, optimizer: torch.optim.Optimizer, mark: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = call(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    usual, other = (torch.bfloat16, torch.float32) if on_gpu else (torch.float32, torch.bfloat16)
    ways = {name: (model, usual, optimizer) for name, optimizer in optimizers.items()}
    if "autocast" in also:
        ways["float32" if on_gpu else "autocast in bfloat16"] = (model, other, optimizers[PLAIN])
    if "compiled" in also:
        ways["compiled"] = (torch.compile(model), usual, optimizers[PLAIN])
    return {name: lambda mark, way=way: step(*way, mark) for name, way in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS))
    parser.add_argument("--batch-size", type=int, help="(the first of the preset)")
    parser.add_argument(
        "--also",
        nargs="*",
        choices=SLOW,
        default=SLOW if ON_GPU else [],
        help="what takes long on a CPU (nothing there)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--device", default="cuda" if ON_GPU else "cpu", help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for JSON and table (%(default)s)")
    args = parser.parse_args()
    size = args.batch_size or PRESETS[args.preset]["batch_sizes"][0]
    model = build(args.preset, args.device)
    batch = make_batch(size, model.config.vision_config.image_size, args.device).ours
    steps = switched(model, batch, args.device, args.also)
    losses = {name: step(None).item() for name, step in steps.items()}  # compiles, and makes the optimisers' states
    assert all(abs(loss - losses[PLAIN]) <= 2e-2 * losses[PLAIN] for loss in losses.values()), losses
    seconds, _ = in_turn(steps, args.device, args.rounds)
    results = {
        name: {"seconds": spread(of_step), "time_ratio": ratios(of_step, seconds[PLAIN])}
        for name, of_step in seconds.items()
    }
    cells = [
        (name, f"{one['seconds']['median']:.3f} s", format_spread(one["time_ratio"])) for name, one in results.items()
    ]
    title = f"A step of {size} images ({args.preset}) with one switch changed, median of {args.rounds} rounds"
    table = markdown_table(("", "time", "of the plain one"), cells)
    write_report(
        args.output / f"step_switches_{args.preset}", title, table, results, device=args.device, settings=vars(args)
    )


if __name__ == "__main__":
    main()
