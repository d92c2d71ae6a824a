"""The named parts of the loss between two log records, summed on the device so that no step waits for it."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..distributed import whole_tensor
from ..parameters.names import used_parameters


class LossLog:
    """Sums the parts of the loss over micro-batches, and gives their means when a log record is due."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.micro_batches = 0

    @torch.no_grad()
    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Adds the parts of one micro-batch, without waiting for the device."""
        self.micro_batches += 1
        for name, part in parts.items():
            if name in self.sums:
                # The sums of a checkpoint lie on the CPU.
                self.sums[name] = self.sums[name].to(part.device) + part
            else:
                self.sums[name] = part.detach().float()

    @torch.no_grad()
    def read(self, model: nn.Module, world_size: int) -> dict[str, float]:
        """
        Returns the values of a log record and starts anew. All processes must call it.

        Args:
            model: The model, for its logit scales.
            world_size: The number of processes.

        Returns:
            The mean of each part since the last record, over micro-batches and processes, and the exp of each logit
            scale under its parameter's name without wrappers, with `_` for `.`.
        """
        names = list(self.sums)
        means = torch.stack([self.sums[name] for name in names]) / self.micro_batches
        if world_size > 1:
            dist.all_reduce(means)
            means /= world_size
        self.sums = {}
        self.micro_batches = 0
        scales = {}
        for name, parameter in used_parameters(model):
            if name.endswith("logit_scale"):
                # A scale that is sharded lies with one process, and has an axis.
                scale = whole_tensor(parameter).reshape(())
                scales[name.replace(".", "_")] = scale.exp().to(means)
        # One copy to the host for all values: each copy would wait for the device.
        values = torch.stack([*means, *scales.values()]).tolist()
        return dict(zip([*names, *scales], values, strict=True))

    def state(self, processes: Any) -> dict[str, Any]:
        """
        Returns the sums since the last record, ready for JSON. All processes must call it.

        Args:
            processes: The processes, with `total` and `count`.
        """
        names = list(self.sums)
        totals = processes.total([float(self.sums[name]) for name in names])
        sums = {name: total / processes.count for name, total in zip(names, totals, strict=True)}
        return {"micro_batches": self.micro_batches, "sums": sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up sums of a checkpoint, which are the mean over its processes."""
        self.micro_batches = state["micro_batches"]
        self.sums = {name: torch.tensor(total, dtype=torch.float32) for name, total in state["sums"].items()}


__all__ = ["LossLog"]
