"""Endless batches of a stream of rows, so that a run over it can be interrupted and resumed at any step."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from torch.utils.data import DataLoader, IterableDataset


class EndlessBatches(IterableDataset[Any]):
    r"""
    Yields the batches of a `DataLoader` over a stream, pass after pass, each with the next epoch number.

    The Trainer counts a stream as one epoch of `max_steps` steps, and the parts of different processes may differ in
    size. An endless series works for both: no process stops before the others, and a resumed run skips as many batches
    as it has seen.

    Args:
        loader (`DataLoader`): a loader over a stream that splits itself over processes and workers. If its data set or
            its collator has a method `set_epoch`, each pass calls it.

    Raises:
        ValueError: if a pass gives no batch.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        for epoch in count():
            self._set_epoch(epoch)
            has_batch = False
            for batch in self.loader:
                has_batch = True
                yield batch
            # Without this check an empty stream would make the loop spin forever.
            if not has_batch:
                raise ValueError(
                    f"the stream must give each process and worker a batch of {self.loader.batch_size} rows, but gave "
                    "none; use fewer workers or a smaller batch"
                )

    def _set_epoch(self, epoch: int) -> None:
        for part in (self.loader.dataset, self.loader.collate_fn):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)


__all__ = ["EndlessBatches"]
