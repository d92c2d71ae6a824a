"""Shares work and counts between dataloader workers and training processes."""

import os

import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info


def process_part() -> tuple[int, int]:
    """Returns the rank of this training process and the number of processes.

    Both are those of the process group, or else of the launcher; a process that stands alone has (0, 1).
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def reader_part() -> tuple[int, int]:
    """Returns the index of this reader and the number of readers: all dataloader workers of all training processes."""
    rank, processes = process_part()
    worker = get_worker_info()
    if worker is None:
        return rank, processes
    return rank * worker.num_workers + worker.id, processes * worker.num_workers


class SharedEpoch:
    """An epoch number that workers see change while they are alive (`persistent_workers=True`)."""

    def __init__(self) -> None:
        self._value = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Sets the epoch for all workers."""
        self._value.fill_(epoch)

    def get(self) -> int:
        """Returns the epoch that was set last; 0 at first."""
        return int(self._value)


class SharedCount:
    """A count that all dataloader workers add to."""

    # Each worker adds in a slot of its own: there is nothing to lock, and no addition is lost.
    _SLOTS = 256

    def __init__(self) -> None:
        self._counts = torch.zeros(self._SLOTS, dtype=torch.int64).share_memory_()

    def add(self) -> None:
        """Adds one."""
        worker = get_worker_info()
        # The process itself has the first slot.
        slot = 0 if worker is None else 1 + worker.id % (self._SLOTS - 1)
        self._counts[slot] += 1

    def get(self) -> int:
        """Returns the sum over this process and its workers."""
        return int(self._counts.sum())
