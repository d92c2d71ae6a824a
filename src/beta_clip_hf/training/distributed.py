"""A differentiable all-gather of tensors whose first axis differs from process to process.

Each process computes the whole loss over the gathered rows. The backward pass sums the gradients that all processes
hold for a row, and the mean over processes that DDP takes afterwards turns that sum into the gradient of one process
that holds all rows. The loss must therefore NOT be multiplied by the number of processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGather:
    r"""
    The `gather` that the losses and `BetaCLIPModel.forward` take: rows of all processes, by rank, with gradients.

    Where `torch.distributed` has not been initialised, or has one process, it is the identity.

    Every process must call it in the same order, with the same dtype and the same trailing axes; a process may hold no
    rows at all. Each call exchanges the row counts (one small message and one wait for the device), then the rows,
    padded to the longest; the backward pass is one all-reduce of the gathered gradient.

    Args:
        group (`ProcessGroup`, *optional*): the processes to gather over; all of them by default.

    Example:

    ```python
    >>> gather = ProcessGather()
    >>> gather(torch.eye(2)).shape, gather.rank, gather.row_counts(2, 5)
    (torch.Size([2, 2]), 0, [[2, 5]])

    ```
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    @property
    def world_size(self) -> int:
        """Number of processes gathered over."""
        return dist.get_world_size(self.group) if dist.is_available() and dist.is_initialized() else 1

    def __call__(self, tensor: Tensor) -> Tensor:
        """
        The rows of all processes.

        Args:
            tensor (`Tensor` of shape `(rows, ...)`): of any dtype; `rows` may be 0 and may differ between processes.

        Returns:
            `(sum of rows, ...)`, ordered by rank. Gradients flow where the dtype has them.

        Raises:
            ValueError: if the tensor has no axis to gather along.
        """
        if tensor.ndim == 0:
            raise ValueError("the tensor to gather must have at least one axis, but is a scalar")
        if self.world_size == 1:
            return tensor
        if torch.is_grad_enabled() and tensor.is_floating_point() and not tensor.requires_grad:
            # The backward pass is collective: a process whose rows happen to be constants takes part all the same.
            tensor = tensor.detach().requires_grad_()
        return _Gather.apply(tensor, self.group)

    @property
    def rank(self) -> int:
        """Place of this process among those gathered over."""
        return dist.get_rank(self.group) if self.world_size > 1 else 0

    def row_counts(self, *rows: int) -> list[list[int]]:
        """What every process gives here, by rank: one exchange for all that depends on sizes. Collective."""
        if self.world_size == 1:
            return [list(rows)]
        on_cpu = "gloo" in dist.get_backend(self.group)
        device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
        return _row_counts(rows, device, self.group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        counts = [rows for (rows,) in _row_counts((len(tensor),), tensor.device, group)]
        rank = dist.get_rank(group)
        ctx.group, ctx.own_rows = group, slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded, group=group)
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient[ctx.own_rows], None


def _row_counts(rows: tuple[int, ...], device: torch.device | None, group: Any) -> list[list[int]]:
    own = torch.tensor(rows, device=device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, own, group=group)
    return torch.stack(counts).tolist()


__all__ = ["ProcessGather"]
