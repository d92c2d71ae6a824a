"""Long work in numbered shards: each is done once, by one of the processes, and is on the disk when it is done."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import replacing
from .processes import Processes


logger = logging.getLogger(__name__)

Kept = dict[str, Tensor]
"""What is kept of some work: tensors on the CPU by name. Those of all shards are joined along the first axis."""


class Shards:
    """
    Does work shard by shard and keeps the results, so that a run that was stopped goes on where it was.

    Args:
        folder (*optional*): For the files, `NAME-00000.safetensors`; without one nothing outlives the process. Its name
            must tell apart all that changes a result: what is found in it is taken as it is.
        processes (*optional*): Who shares the work; by default those of `torch.distributed`.
    """

    def __init__(self, folder: Path | None = None, processes: Processes | None = None) -> None:
        self.folder, self.processes = folder, processes or Processes()

    def run(
        self, name: str, count: int, work: Callable[[Sequence[int]], Iterator[Kept]], everywhere: bool = False
    ) -> Kept:
        """
        All shards of some work, joined in their order.

        Args:
            name: Of the work, and of its files.
            count: How many shards there are.
            work: Yields the results of the shards with the given numbers, one after the other.
            everywhere: Whether all processes get the joined results; otherwise the first one does, the others get {}.
        """
        found = {}
        if self.processes.rank == 0 and self.folder is not None:
            found = {i: kept for i in range(count) if (kept := _loaded(self._path(name, i))) is not None}
        missing = [i for i in range(count) if i not in self.processes.broadcast(list(found))]
        own = missing[self.processes.rank :: self.processes.count]
        done = {}
        for number, kept in zip(own, work(own), strict=True):
            done[number] = kept
            self._save(name, number, kept)
        for of_process in self.processes.gather(done):
            found |= of_process
        everything = joined([found[i] for i in range(count)]) if self.processes.rank == 0 else {}
        return self.processes.broadcast(everything) if everywhere else everything

    def _path(self, name: str, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}-{number:05d}.safetensors"

    def _save(self, name: str, number: int, kept: Kept) -> None:
        if self.folder is None:
            return
        metadata = {"names": json.dumps(list(kept))}  # in their order, which the format does not keep
        with replacing(self._path(name, number)) as unfinished:
            save_file({key: tensor.contiguous() for key, tensor in kept.items()}, unfinished, metadata)


def _loaded(path: Path) -> Kept | None:
    """What was kept of a shard; `None` where it is not there, or the machine went down before it was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in json.loads(file.metadata()["names"])}
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s): that work is done again", path, error)
        return None


def joined(parts: Sequence[Kept]) -> Kept:
    """What was kept of several parts, in their order; a part need not have every name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


def split(items: Sequence[Any], size: int) -> list[Any]:
    """The items in consecutive pieces of a size; the last may be smaller."""
    return [items[first : first + size] for first in range(0, len(items), size)]
