"""Counts the rows that training batches have lost, exactly, whatever is read ahead or read again."""

from collections.abc import Sequence
from typing import Any


_KEY = "skipped_rows"


class CountedRows:
    """
    Wraps a collator, so that each batch says how many of its rows could not be used.

    Args:
        collator: Makes batches of rows. A batch has one image, of `pixel_values`, for each row that was used.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Any]) -> Any:
        batch = self.collator(rows)
        if isinstance(batch, dict) and "pixel_values" in batch:
            batch[_KEY] = len(rows) - len(batch["pixel_values"])
        return batch

    def set_epoch(self, epoch: int) -> None:
        """Tells the collator the number of the epoch, if it wants to know."""
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(epoch)


def take_skipped(batch: Any) -> int:
    """Returns the number of rows that a batch has lost, and removes it from the batch: the model does not know it."""
    if isinstance(batch, dict):
        return int(batch.pop(_KEY, 0))
    return 0


__all__ = ["CountedRows", "take_skipped"]
