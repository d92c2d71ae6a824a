"""Does long work in numbered shards. Each is done once, by one of the processes, and then kept on the disk."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import replacing
from .identity import tensors_hash
from .processes import Processes


logger = logging.getLogger(__name__)

Kept = dict[str, Tensor]
"""The result of some work: tensors on the CPU by name. The results of shards are joined along the first axis."""


class Shards:
    """
    Does work shard by shard and keeps the results, so that a run that was stopped continues where it was.

    Args:
        folder (*optional*): Directory for the results, `NAME-00000.safetensors`; without one they are not written.
            Results that are there are taken as they are, so its name must identify everything that they depend on.
        processes (*optional*): The processes that share the work; by default those of `torch.distributed`.
    """

    def __init__(self, folder: Path | None = None, processes: Processes | None = None) -> None:
        self.folder = folder
        self.processes = processes or Processes()

    def run(
        self, name: str, count: int, work: Callable[[Sequence[int]], Iterator[Kept]], everywhere: bool = False
    ) -> Kept:
        """
        Does all shards of some work and joins their results in order. Every process must call it.

        Args:
            name: Name of the work and of its files.
            count: Number of shards.
            work: Takes the numbers of shards, and yields their results one after the other.
            everywhere: Whether all processes get the joined results. Otherwise only the first one does, and the others
                get {}.
        """
        is_first = self.processes.rank == 0
        results: dict[int, Kept] = {}
        if is_first:
            results = self._load_all(name, count)
        finished = set(self.processes.broadcast(list(results)))
        missing = [number for number in range(count) if number not in finished]
        assigned = missing[self.processes.rank :: self.processes.count]
        computed = {}
        # `strict` also runs the generator to its end, which closes its progress bar.
        for number, kept in zip(assigned, work(assigned), strict=True):
            computed[number] = kept
            self._save(name, number, kept)
        for computed_by_process in self.processes.gather(computed):
            results |= computed_by_process
        everything: Kept = {}
        if is_first:
            everything = joined([results[number] for number in range(count)])
        if everywhere:
            return self.processes.broadcast(everything)
        return everything

    def _load_all(self, name: str, count: int) -> dict[int, Kept]:
        """Returns the results that are on the disk, by the number of the shard."""
        results: dict[int, Kept] = {}
        if self.folder is None:
            return results
        for number in range(count):
            kept = _load(_shard_path(self.folder, name, number))
            if kept is not None:
                results[number] = kept
        return results

    def _save(self, name: str, number: int, kept: Kept) -> None:
        """Writes the result of a shard, if there is a directory for it."""
        if self.folder is None:
            return
        # safetensors sorts the tensors by their names, so their order is kept beside them.
        metadata = {"names": json.dumps(list(kept)), "sha256": tensors_hash(kept.items())}
        with replacing(_shard_path(self.folder, name, number)) as unfinished:
            save_file({key: tensor.contiguous() for key, tensor in kept.items()}, unfinished, metadata)


def _shard_path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05d}.safetensors"


def _load(path: Path) -> Kept | None:
    """Returns the result of a shard; `None` if there is no file, or it is not as it was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            kept = {name: file.get_tensor(name) for name in json.loads(metadata["names"])}
        if tensors_hash(kept.items()) != metadata["sha256"]:
            raise ValueError("its content has changed")
    # Damage can break a file in any way, and the work can be done again.
    except Exception as error:
        logger.warning("%s is damaged (%s): that work is done again", path, error)
        return None
    return kept


def joined(parts: Sequence[Kept]) -> Kept:
    """Joins the results of several parts in their order. A part need not have every name."""
    tensors: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, tensor in part.items():
            tensors.setdefault(name, []).append(tensor)
    return {name: torch.cat(parts_of_name) for name, parts_of_name in tensors.items()}


def split(items: Sequence[Any], size: int) -> list[Any]:
    """
    Cuts a sequence into pieces of a size; the last may be smaller.

    >>> split("abcde", 2)
    ['ab', 'cd', 'e']
    """
    return [items[start : start + size] for start in range(0, len(items), size)]
