"""What dataloader workers and training processes share: which part of a stream is whose, one epoch, one count."""

import os

import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info


def process_part() -> tuple[int, int]:
    """`(rank, number of processes)` of the running training: the process group's, else the launcher's, else (0, 1)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def reader_part() -> tuple[int, int]:
    """`(index, number)` of this reader among all dataloader workers of all training processes."""
    rank, processes = process_part()
    worker = get_worker_info()
    if worker is None:
        return rank, processes
    return rank * worker.num_workers + worker.id, processes * worker.num_workers


class SharedEpoch:
    """An epoch number that workers see change while they live (`persistent_workers=True`)."""

    def __init__(self) -> None:
        self._value = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        self._value.fill_(epoch)

    def get(self) -> int:
        return int(self._value)


class SharedCount:
    """A count that all dataloader workers add to. Each has a slot of its own: nothing to lock, no addition is lost."""

    _SLOTS = 256

    def __init__(self) -> None:
        self._counts = torch.zeros(self._SLOTS, dtype=torch.int64).share_memory_()

    def add(self) -> None:
        worker = get_worker_info()
        slot = 0 if worker is None else 1 + worker.id % (self._SLOTS - 1)
        self._counts[slot] += 1

    def get(self) -> int:
        return int(self._counts.sum())
