"""Counts the memory of a training step without computing it: any batch size, on any machine, in seconds.

    python benchmarks/step_bytes.py                                   # ViT-B/16, B = 4 and 64, float32 and bfloat16
    python benchmarks/step_bytes.py --preset quick --batch-sizes 4

All tensors are torch's fake ones, which have sizes and no values, on a CPU as far as operators can tell. Every storage
that an operator makes is counted until it is freed; what an operator takes for itself while it runs is not. bfloat16 is
autocast, in which softmax and layer norms have float32 as on a GPU. The table goes to `--output`, with a JSON of all
numbers.
"""

import argparse
import weakref
from pathlib import Path
from typing import Any

import torch
from report import OUTPUT, markdown_table, write_report
from step_batch import make_batch
from step_costs import TensorBytes
from step_variants import REFERENCE, Step, settings
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_step import PRESETS, mebibytes

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel


DTYPES = ("float32", "bfloat16")
IN_FLOAT32 = (
    torch.Tensor.softmax,
    torch.softmax,
    torch.Tensor.log_softmax,
    torch.log_softmax,
    functional.softmax,
    functional.log_softmax,
    functional.layer_norm,
)


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of all storages that operators make while it is on, and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What an operator is given, it has not made.
        for tensor in _tensors((args, kwargs)):
            self.seen.add(tensor.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.alive -= size


class GPUAutocast(TorchFunctionMode):
    """Gives float32 to what autocast computes in float32 on a GPU, and in bfloat16 on a CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_half = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.bfloat16
        if func in IN_FLOAT32 and is_half and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def count_bytes(step: Step) -> TensorBytes:
    """Counts the tensors of a step, which is run once."""
    kept = []
    with GPUAutocast(), ByteCounter() as counter:
        step(lambda: kept.append(counter.alive))
    return TensorBytes(max(kept), counter.peak)


def count(preset: str, batch_size: int) -> dict[str, Any]:
    """Returns the bytes of all steps of one batch size, by dtype and name."""
    config = BetaCLIPConfig(**PRESETS[preset]["config"])
    batch = make_batch(batch_size, config.vision_config.image_size, "cpu")
    results: dict[str, Any] = {}
    # The batch is real, because its plan is read. Operators take a fake copy of it.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = BetaCLIPModel(config).train()
        for dtype in DTYPES:
            steps = settings(model, batch, is_half=dtype == "bfloat16")
            results[dtype] = {name: count_bytes(step)._asdict() for name, step in steps.items()}
    return {"batch_size": batch_size, "bytes": results}


def markdown(results: list[dict[str, Any]]) -> str:
    """Formats the table."""
    rows = []
    for result in results:
        for dtype, steps in result["bytes"].items():
            for name, found in steps.items():
                share = found["peak"] / steps[REFERENCE]["peak"]
                peak = f"{mebibytes(found['peak'])}, {share:.2f}"
                rows.append([f"B = {result['batch_size']}, {dtype}: {name}", mebibytes(found["kept"]), peak])
    return markdown_table(("", "kept", "peak, of the reference's"), rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="full", choices=list(PRESETS), help="size of the model (%(default)s)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4, 64], help="numbers of images (4 and 64)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    args = parser.parse_args()
    results = [count(args.preset, size) for size in args.batch_sizes]
    path = args.output / f"step_bytes_{args.preset}"
    write_report(path, "Memory of a training step, counted", markdown(results), results, settings=vars(args))


if __name__ == "__main__":
    main()
