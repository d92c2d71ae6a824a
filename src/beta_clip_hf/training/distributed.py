"""Exchanges rows between processes for a loss over all of them: a differentiable all-gather of ragged rows, and sums.

Each process gets the value of the whole loss. The backward pass sums the gradients that all processes hold for a row,
and the mean over processes that DDP takes afterwards turns that sum into the gradient of one process that holds all
rows. The loss must therefore NOT be multiplied by the number of processes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.workers import joined_place
from ..model.gather_beta_clip import Gather


# Whether `state_dict` gathers sharded logit scales, see `without_gathering`.
_gathers_scales = ContextVar("gathers_scales", default=True)


class ProcessGather(Gather):
    r"""
    Implements [`~beta_clip_hf.model.gather_beta_clip.Gather`] with `torch.distributed`.

    Where `torch.distributed` has not been initialised, or has one process, every method is the identity.

    Every process must call the same methods in the same order, with the same dtype and the same trailing axes; a
    process may hold no rows at all. The rows travel padded to the longest; the backward pass is one reduce-scatter of
    the gradient.

    The CPU must know how many rows each process has. Numbers of rows are known there, so they are exchanged from CPU to
    CPU and nothing waits for a GPU: by gloo, over a process group of its own where the given one has only NCCL. It is
    made at the first exchange and needs the network that NCCL itself starts from (`GLOO_SOCKET_IFNAME` chooses the
    interface).

    Args:
        group (`ProcessGroup`, *optional*): The processes to gather over; all of them by default.
        counts (`Sequence[int]`, *optional*): The rows that each process has, by rank, see [`ProcessGather.sized`].

    Example:

    ```python
    >>> gather = ProcessGather()
    >>> gather(torch.eye(2)).shape, gather.rank, gather.row_counts(2, 5)
    (torch.Size([2, 2]), 0, [[2, 5]])

    ```
    """

    def __init__(self, group: Any = None, counts: Sequence[int] | None = None) -> None:
        self.group = group
        self.counts = counts
        self._cpu_group: Any = None

    @property
    def world_size(self) -> int:
        """Number of processes gathered over."""
        place = joined_place(self.group)
        return 1 if place is None else place.world_size

    @property
    def rank(self) -> int:
        """Place of this process among those gathered over."""
        place = joined_place(self.group)
        return 0 if place is None else place.rank

    def sized(self, counts: Sequence[int]) -> "ProcessGather":
        """Returns a gather for tensors with `counts[r]` rows in process r. It does not exchange the counts again."""
        return ProcessGather(self.group, counts)

    def __call__(self, rows: Tensor) -> Tensor:
        """
        Returns the rows of all processes.

        Args:
            rows (`Tensor` of shape `(M, ...)`): Of any dtype; M may be 0 and may differ between processes.

        Returns:
            `(E, ...)`, ordered by rank. Gradients flow where the dtype has them.

        Raises:
            ValueError: If the tensor has no axis to gather along.
        """
        if rows.ndim == 0:
            raise ValueError("the tensor to gather must have at least one axis, but is a scalar")
        if self.world_size == 1:
            return rows
        if torch.is_grad_enabled() and rows.is_floating_point() and not rows.requires_grad:
            # The backward pass is collective: a process whose rows happen to be constants takes part all the same.
            rows = rows.detach().requires_grad_()
        counts = [count for (count,) in self.row_counts(len(rows))]
        assert counts[self.rank] == len(rows), "a sized gather takes tensors of its size"
        return _AllGather.apply(rows, counts, self.group)

    def row_counts(self, *rows: int) -> list[list[int]]:
        """Returns the numbers that each process passes, by rank, after one exchange. Collective."""
        if self.counts is not None:
            return [[count] for count in self.counts]
        if self.world_size == 1:
            return [list(rows)]
        own_counts = torch.tensor(rows)
        all_counts = [torch.zeros_like(own_counts) for _ in range(self.world_size)]
        dist.all_gather(all_counts, own_counts, group=self._group_on_cpu())
        return torch.stack(all_counts).tolist()

    def _group_on_cpu(self) -> Any:
        """Returns a group that can exchange tensors on the CPU. Collective at the first call."""
        if self._cpu_group is None:
            group = self.group or dist.group.WORLD
            if "cpu:" not in dist.get_backend_config(group):
                ranks = dist.get_process_group_ranks(group)
                group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
            self._cpu_group = group
        return self._cpu_group

    def sum(self, values: Tensor) -> Tensor:
        """
        Returns the sum over processes, element by element, on each of them.

        The gradient is that of this process's values, times the number of processes: the mean over processes is the
        gradient of the sum.
        """
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total, group=self.group)
        scaled = self.world_size * values
        # Adds 0 to the value, and the gradient of `scaled`.
        return total + (scaled - scaled.detach())

    def logsumexp(self, values: Tensor) -> Tensor:
        """Returns log Σ exp over processes of tensors of one shape, element by element; differentiable."""
        if self.world_size == 1:
            return values
        return _LogSumExp.apply(values, self.group)


class _AllGather(torch.autograd.Function):
    """Gathers ragged rows; the backward pass gives each process the summed gradient of its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int], group: Any) -> Tensor:
        ctx.group = group
        ctx.counts = counts
        ctx.num_own_rows = len(rows)
        # All processes send blocks of one size, that of the fullest process.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        received = rows.new_empty(len(counts), *padded.shape)
        _all_gather(received.flatten(0, 1), padded, group)
        return torch.cat([block[:count] for block, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        padded = pad_sequence(gradient.split(ctx.counts), batch_first=True)
        own_gradient = torch.empty_like(padded[0])
        _reduce_scatter(own_gradient, padded.flatten(0, 1), ctx.group)
        return own_gradient[: ctx.num_own_rows], None, None


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exp over processes; its gradient, like that of the gather, is summed over processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        peak = values.clone()
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        own_terms = (values - peak).exp()
        total = own_terms.clone()
        dist.all_reduce(total, group=group)
        ctx.group = group
        ctx.save_for_backward(own_terms / total)
        return peak + total.log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # A collective operation needs memory without gaps, which an expanded gradient does not have.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient * ctx.saved_tensors[0], None


def prepare_for_fsdp2(model: nn.Module) -> nn.Module:
    """
    Gives the parameters of a model that are single numbers, its logit scales, an axis of length 1, in place.

    FSDP2 shards along the first axis, and refuses parameters without one. `state_dict` still returns the scales without
    an axis, so that checkpoints keep their format. The model also names the modules to be sharded one by one, where
    accelerate's configuration does not. [`BetaCLIPTrainer`] calls this by itself.

    Returns:
        The same model. A second call changes nothing.
    """
    give_scales_an_axis(model)
    pretrained: Any = model
    layers = getattr(pretrained, "_no_split_modules", None)
    if layers:
        # Not the embeddings: accelerate shards the table of tokens by itself, and must do so before what holds it.
        pretrained._no_split_modules = {name for name in layers if not name.endswith("Embeddings")}
    return model


def give_scales_an_axis(model: nn.Module) -> None:
    """
    Gives logit scales an axis of length 1, in place, for FSDP2 and DeepSpeed. `state_dict` returns them without it.

    A second call changes nothing.
    """
    for module in model.modules():
        names = [name for name, parameter in module.named_parameters(recurse=False) if parameter.ndim == 0]
        for name in names:
            parameter = module.get_parameter(name)
            # The parameter stays the same object, because an optimiser may hold it already.
            parameter.data = parameter.data.reshape(1)
        if names:
            module.register_state_dict_post_hook(partial(_without_axes, names))
            module.register_load_state_dict_pre_hook(partial(_with_axes, names))


@contextmanager
def without_gathering() -> Iterator[None]:
    """Makes `state_dict` leave sharded scales as they are, so that one process alone may ask for the names."""
    token = _gathers_scales.set(False)
    try:
        yield
    finally:
        _gathers_scales.reset(token)


def _without_axes(names: list[str], module: nn.Module, state_dict: Any, prefix: str, local_metadata: Any) -> None:
    if not _gathers_scales.get():
        return
    for name in names:
        state_dict[prefix + name] = whole_tensor(state_dict[prefix + name]).reshape(())


def _with_axes(names: list[str], module: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
    for name in names:
        scale = state_dict.get(prefix + name)
        if scale is None:
            continue
        parameter = module.get_parameter(name)
        scale = scale.reshape(1)
        if isinstance(parameter, DTensor) and not isinstance(scale, DTensor):
            scale = distribute_tensor(scale, parameter.device_mesh, parameter.placements)
        state_dict[prefix + name] = scale


def whole_tensor(tensor: Tensor) -> Tensor:
    """Returns a tensor itself, or the whole of one that is sharded. All processes must call it then."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """Returns a tensor itself, or this process's shard of one that is sharded; they share memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# The second name of each function is its name before torch 2.13.
def _all_gather(received: Tensor, rows: Tensor, group: Any) -> None:
    function = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    function(received, rows, group=group)


def _reduce_scatter(received: Tensor, rows: Tensor, group: Any) -> None:
    function = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    function(received, rows, group=group)


__all__ = [
    "ProcessGather",
    "give_scales_an_axis",
    "local_part",
    "prepare_for_fsdp2",
    "whole_tensor",
    "without_gathering",
]
