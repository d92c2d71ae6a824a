"""The place of a process in a training, the share of a stream that a dataloader worker reads, and shared numbers."""

import os
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info


class ProcessPlace(NamedTuple):
    """Holds the place of a process, from 0, among a number of processes that work together."""

    rank: int
    world_size: int


def joined_place(group: Any = None) -> ProcessPlace | None:
    """
    Returns the place of this process in `torch.distributed`, or `None` where that has not been initialised.

    Args:
        group (`ProcessGroup`, *optional*): The processes to count; all of them by default.
    """
    if not dist.is_available() or not dist.is_initialized():
        return None
    return ProcessPlace(dist.get_rank(group), dist.get_world_size(group))


def launched_place() -> ProcessPlace:
    """Returns the place that `torchrun` or `accelerate launch` gave to this process; (0, 1) without a launcher."""
    return ProcessPlace(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def process_place() -> ProcessPlace:
    """
    Returns the place of this process in the running training.

    A dataloader worker inherits the variables of the launcher, but no process group: there the launcher decides.
    """
    joined = joined_place()
    return launched_place() if joined is None else joined


def reader_place() -> ProcessPlace:
    """Returns the place of this reader among all dataloader workers of all training processes."""
    process = process_place()
    worker = get_worker_info()
    if worker is None:
        return process
    return ProcessPlace(process.rank * worker.num_workers + worker.id, process.world_size * worker.num_workers)


class SharedEpoch:
    """An epoch number whose changes reach living workers too (`persistent_workers=True`)."""

    def __init__(self) -> None:
        self._value = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Sets the number for all workers."""
        self._value.fill_(epoch)

    def get(self) -> int:
        """Returns the number."""
        return int(self._value)


class SharedCount:
    """A count that all dataloader workers add to."""

    # Each worker adds to a slot of its own: without a lock, no addition is lost.
    _SLOTS = 256

    def __init__(self) -> None:
        self._counts = torch.zeros(self._SLOTS, dtype=torch.int64).share_memory_()

    def add(self, number: int = 1) -> None:
        """Adds a number."""
        worker = get_worker_info()
        # Slot 0 belongs to the process itself.
        slot = 0
        if worker is not None:
            slot = 1 + worker.id % (self._SLOTS - 1)
        self._counts[slot] += number

    def get(self) -> int:
        """Returns the sum over all workers."""
        return int(self._counts.sum())
