"""The processes of an evaluation. They exchange objects on the CPU, whatever device their models are on."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..data.workers import ProcessPlace, joined_place, launched_place


# The first process ranks and draws while the others wait for it.
_PATIENCE = timedelta(hours=12)


class Processes:
    """
    This process among those of `torch.distributed`, or alone if there are no others.

    All methods are collective: every process calls them, in the same order.

    Attributes:
        count: Number of processes.
        rank: Number of this process, from 0.
    """

    def __init__(self) -> None:
        place = joined_place() or ProcessPlace(rank=0, world_size=1)
        self.rank = place.rank
        self.count = place.world_size
        self._group = None
        if self.count > 1:
            # gloo, because a training's own group may be NCCL, which exchanges tensors on GPUs only.
            self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def broadcast(self, value: Any) -> Any:
        """Returns the value of the first process in every process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes by rank in the first process, and an empty list in the others."""
        if self.count == 1:
            return [value]
        # torch refuses a list of places in all processes but the first.
        if self.rank != 0:
            dist.gather_object(value, None, dst=0, group=self._group)
            return []
        values: list[Any] = [None] * self.count
        dist.gather_object(value, values, dst=0, group=self._group)
        return values

    def maximum(self, value: int) -> int:
        """Returns the largest of the numbers of all processes in every process."""
        if self.count == 1:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def total(self, values: Sequence[float]) -> list[float]:
        """Returns the sums of the numbers of all processes in every process."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self._group)
        return list(sums.tolist())


@contextmanager
def launched_processes() -> Iterator[None]:
    """Joins the processes that `torchrun` or `accelerate launch` has started, if any, and leaves them at the end."""
    if launched_place().world_size == 1 or joined_place() is not None:
        yield
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(name: str | None = None) -> torch.device:
    """
    Returns the device of this process. With several processes "cuda" is another GPU in each.

    Args:
        name: A device of torch, for example "cpu" or "cuda:1"; `None` takes CUDA if it is available.

    Raises:
        ValueError: if torch does not know the device, or cannot use it.
    """
    if name is None:
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
    device_name = name
    if name == "cuda":
        # torchrun and accelerate number the processes of a machine.
        device_name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(device_name)
        # A device that torch knows by name may still not exist here.
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"device must be one that torch can use here, as cpu, but is {name!r}: beta-clip doctor says what there is"
        ) from error
    return device
