"""What processes exchange for a loss over the rows of all: a differentiable all-gather of ragged tensors, and sums.

Each process gets the value of the whole loss. The backward pass sums the gradients that all processes hold for a row,
and the mean over processes that DDP takes afterwards turns that sum into the gradient of one process that holds all
rows. The loss must therefore NOT be multiplied by the number of processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class ProcessGather:
    r"""
    The `gather` that the losses and `BetaCLIPModel.forward` take: rows of all processes, by rank, with gradients.

    Where `torch.distributed` has not been initialised, or has one process, it is the identity.

    Every process must call it in the same order, with the same dtype and the same trailing axes; a process may hold no
    rows at all. The rows travel padded to the longest; the backward pass is one reduce-scatter of the gradient.

    How many rows each process has must be known on the CPU. Numbers of rows are known there, so they are exchanged
    from CPU to CPU and no GPU is waited for: by gloo, over a process group of its own where the given one has only
    NCCL. It is made at the first exchange and needs the network that NCCL itself starts from (`GLOO_SOCKET_IFNAME`
    chooses the interface).

    Args:
        group (`ProcessGroup`, *optional*): the processes to gather over; all of them by default.
        counts (`Sequence[int]`, *optional*): the rows that each process has, by rank, see [`ProcessGather.sized`].

    Example:

    ```python
    >>> gather = ProcessGather()
    >>> gather(torch.eye(2)).shape, gather.rank, gather.row_counts(2, 5)
    (torch.Size([2, 2]), 0, [[2, 5]])

    ```
    """

    def __init__(self, group: Any = None, counts: Sequence[int] | None = None) -> None:
        self.group, self.counts = group, counts
        self._cpu_group: Any = None

    @property
    def world_size(self) -> int:
        """Number of processes gathered over."""
        return dist.get_world_size(self.group) if dist.is_available() and dist.is_initialized() else 1

    def sized(self, counts: Sequence[int]) -> "ProcessGather":
        """A gather of tensors of which process r has `counts[r]` rows: they need not be exchanged again."""
        return ProcessGather(self.group, counts)

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
        counts = [rows for (rows,) in self.row_counts(len(tensor))]
        assert counts[self.rank] == len(tensor), "a sized gather takes tensors of its size"
        return _Gather.apply(tensor, counts, self.group)

    @property
    def rank(self) -> int:
        """Place of this process among those gathered over."""
        return dist.get_rank(self.group) if self.world_size > 1 else 0

    def row_counts(self, *rows: int) -> list[list[int]]:
        """What every process gives here, by rank: one exchange for all that depends on sizes. Collective."""
        if self.counts is not None:
            return [[count] for count in self.counts]
        if self.world_size == 1:
            return [list(rows)]
        if self._cpu_group is None:
            group = self.group or dist.group.WORLD
            if "cpu:" not in dist.get_backend_config(group):
                ranks = dist.get_process_group_ranks(group)
                group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
            self._cpu_group = group
        own = torch.tensor(rows)
        counts = [torch.zeros_like(own) for _ in range(self.world_size)]
        dist.all_gather(counts, own, group=self._cpu_group)
        return torch.stack(counts).tolist()

    def sum(self, values: Tensor) -> Tensor:
        """
        The sums of some numbers over the processes, on each of them.

        The gradient is that of the own numbers, times the number of processes: the mean over processes is the gradient
        of the sum.
        """
        if self.world_size == 1:
            return values
        total, own = values.detach().clone(), self.world_size * values
        dist.all_reduce(total, group=self.group)
        return total + (own - own.detach())

    def logsumexp(self, tensor: Tensor) -> Tensor:
        """log Σ exp over the processes, element by element, of tensors of one shape; with gradients as the gather."""
        return tensor if self.world_size == 1 else _LogSumExp.apply(tensor, self.group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: Sequence[int], group: Any) -> Tensor:
        ctx.group, ctx.counts, ctx.own_rows = group, counts, len(tensor)
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        received = tensor.new_empty(len(counts), *padded.shape)
        _all_gather(received.flatten(0, 1), padded, group)
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        padded = pad_sequence(gradient.split(ctx.counts), batch_first=True)
        own = torch.empty_like(padded[0])
        _reduce_scatter(own, padded.flatten(0, 1), ctx.group)
        return own[: ctx.own_rows], None, None


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        peak = tensor.clone()
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        own = (tensor - peak).exp()
        total = own.clone()
        dist.all_reduce(total, group=group)
        ctx.group = group
        ctx.save_for_backward(own / total)
        return peak + total.log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient * ctx.saved_tensors[0], None


# The second name of each is the one before torch 2.13.
def _all_gather(received: Tensor, own: Tensor, group: Any) -> None:
    (getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor)(received, own, group=group)


def _reduce_scatter(own: Tensor, given: Tensor, group: Any) -> None:
    (getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor)(own, given, group=group)


__all__ = ["ProcessGather"]
