"""Counts the rows of training batches, and those they have lost, exactly, whatever is read ahead or read again."""

from collections.abc import Sequence
from typing import Any, NamedTuple


_KEY = "row_counts"


class BatchCounts(NamedTuple):
    """The rows of a batch."""

    rows: int = 0
    """Rows that the batch was made of."""
    skipped: int = 0
    """Rows among them that could not be used."""


class CountedRows:
    """
    Wraps a collator, so that each batch says how many rows it was made of, and how many could not be used.

    Args:
        collator: Makes batches of rows. A batch has one image, of `pixel_values`, for each row that was used.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Any]) -> Any:
        batch = self.collator(rows)
        if isinstance(batch, dict) and "pixel_values" in batch:
            batch[_KEY] = BatchCounts(len(rows), len(rows) - len(batch["pixel_values"]))
        return batch

    def set_epoch(self, epoch: int) -> None:
        """Tells the collator the number of the epoch, if it wants to know."""
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(epoch)


def take_counts(batch: Any) -> BatchCounts:
    """Returns the counts of a batch, and removes them from it: the model does not know them."""
    if isinstance(batch, dict) and _KEY in batch:
        return BatchCounts(*map(int, batch.pop(_KEY)))
    return BatchCounts()


__all__ = ["BatchCounts", "CountedRows", "take_counts"]
