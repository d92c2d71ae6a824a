"""Counts the rows of batches, and those they have lost, exactly, whatever is read ahead or read again; lists them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ...data.collator import NoUsableRow
from ...data.row_counts import SkippedRow


SKIPPED_FILE = "skipped.jsonl"
"""The list of skipped rows in the output directory."""
_KEY = "row_counts"
# Stands for a batch without a row: its shapes are those of others, and its loss does not count.
_BLANK_ROW = {"id": "blank", "image": Image.new("RGB", (64, 64)), "caption": "nothing"}
# The share of skipped rows is compared with its limit from so many rows on.
_ROWS_TO_JUDGE = 100


class BatchCounts(NamedTuple):
    """The rows of a batch."""

    rows: int = 0
    """Rows that the batch was made of."""
    skipped: int = 0
    """Rows among them that could not be used."""

    @property
    def is_blank(self) -> bool:
        """Whether no row could be used, and the batch holds a blank image in their place."""
        return self.rows > 0 and self.skipped == self.rows


class CountedRows:
    """
    Wraps a collator, so that each batch says how many rows it was made of, and how many could not be used.

    A batch without a row that can be used becomes a blank one: other processes may wait for its forward pass.

    Args:
        collator: Makes batches of rows. A batch has one image, of `pixel_values`, for each row that was used.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Any]) -> Any:
        try:
            batch = self.collator(rows)
        except NoUsableRow:
            return {**self.collator([_BLANK_ROW]), _KEY: BatchCounts(len(rows), len(rows))}
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


def check_bad_fraction(skipped: int, rows: int, most: float, source: str) -> None:
    """
    Checks how many rows are lost. A few rows say nothing yet.

    Args:
        skipped: Number of rows that could not be used.
        rows: Number of all rows.
        most: Largest share that may be skipped. With 1, only data without any row that can be used are refused.
        source: What the rows are, for the message.

    Raises:
        ValueError: if more were skipped.
    """
    is_too_much = skipped > most * rows or (most >= 1 and skipped == rows)
    if rows >= _ROWS_TO_JUDGE and is_too_much:
        raise ValueError(
            f"at most {most:.1%} of {source} may be skipped (max_bad_fraction), but {skipped:,} of {rows:,} were: "
            f"{SKIPPED_FILE} in the output directory says which and why"
        )


def list_skipped(trainer: Any, is_resumed: bool) -> None:
    """
    Begins the list of skipped rows in the output directory with those that the readers have skipped.

    Args:
        trainer: The Trainer. Its collators go on with the list.
        is_resumed: Whether the list of the legs before is continued.

    Raises:
        ValueError: if more rows than `max_bad_fraction` are skipped.
    """
    path = Path(trainer.args.output_dir) / SKIPPED_FILE
    if trainer.is_world_process_zero() and not is_resumed:
        path.unlink(missing_ok=True)
    # No process may write before the old list is gone.
    trainer.processes.broadcast(None)
    for collator in (trainer.data_collator, trainer.eval_data_collator):
        log = getattr(collator, "skip_log", None)
        if log is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            log.path = path
    rows = trainer.train_dataset
    skipped = getattr(rows, "skipped", None)
    if not isinstance(skipped, list):
        return
    log = getattr(trainer.data_collator, "skip_log", None)
    if log is not None and trainer.is_world_process_zero():
        for location, reason in skipped:
            log.add(SkippedRow(location, location, reason))
    num_rows = getattr(rows, "num_read", len(rows)) + len(skipped)
    check_bad_fraction(len(skipped), num_rows, trainer.args.max_bad_fraction, "the rows of the training data")


__all__ = ["SKIPPED_FILE", "BatchCounts", "CountedRows", "check_bad_fraction", "list_skipped", "take_counts"]
