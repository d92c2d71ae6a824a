"""A stream of rows as one endless series of batches, so that a run over it can be cut and resumed anywhere."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from torch.utils.data import DataLoader, IterableDataset


class EndlessBatches(IterableDataset[Any]):
    r"""
    The batches of a `DataLoader` over a stream, pass after pass, each pass with the next epoch number.

    The Trainer counts a stream as one epoch of `max_steps` steps, and processes may hold parts of different size. A
    series without an end serves both: no process stops before the others, and resuming skips so many batches.

    Args:
        loader (`DataLoader`):
            Over a stream that splits itself over processes and workers. Where its data set or its collator has a
            `set_epoch`, each pass calls it.

    Raises:
        ValueError: in a pass that does not give a single batch.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        for epoch in count():
            for part in (self.loader.dataset, self.loader.collate_fn):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(epoch)
            batch = None
            for batch in self.loader:
                yield batch
            if batch is None:
                raise ValueError(
                    f"the stream must give each process and worker a batch of {self.loader.batch_size} rows, but gave "
                    "none; use fewer workers or a smaller batch"
                )


__all__ = ["EndlessBatches"]
