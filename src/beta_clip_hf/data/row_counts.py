"""Counts the rows of a source: those that are read, skipped and held out are all of them."""

import logging


logger = logging.getLogger(__name__)


class RowCounts:
    """Holds the counts of one pass over a source.

    Args:
        source: Name of the source in messages.
        strict: Whether a row that cannot be used is an error.

    Attributes:
        used: Number of rows that can be used.
        skipped: Number of rows that cannot.
        held_out: Number of records that are not selected.
        first_reason: Where the first skipped row is, and why it is skipped.
    """

    def __init__(self, source: str, *, strict: bool = False) -> None:
        self.source = source
        self.strict = strict
        self.used = 0
        self.skipped = 0
        self.held_out = 0
        self.first_reason = ""

    @property
    def total(self) -> int:
        """Number of all rows of the source."""
        return self.used + self.skipped + self.held_out

    def add(self, rows: int = 1) -> None:
        """Counts rows that can be used."""
        self.used += rows

    def skip(self, location: str, error: ValueError) -> None:
        """Counts and logs a row that is skipped; if `strict`, raises its error instead."""
        self.skipped += 1
        self.first_reason = self.first_reason or f"{location}: {error}"
        report_skip(location, error, self.strict)

    def hold_out(self, records: int = 1) -> None:
        """Counts records that are not selected."""
        self.held_out += records

    def report(self, photos: int | None = None) -> None:
        """Logs the counts: as a warning if rows were skipped.

        Args:
            photos: Number of photos, if several rows show the same one.
        """
        level = logging.WARNING if self.skipped else logging.INFO
        counts = f"{self.used:,} rows read + {self.skipped:,} skipped"
        if self.held_out:
            counts += f" + {self.held_out:,} held out"
        logger.log(level, "%s: %s = %s in the source", self.source, counts, f"{self.total:,}")
        if photos is not None:
            logger.info(
                "%s: %s rows are %s photos: rows that name the same image are one photo with several captions "
                "(group=False or --no-group keeps them apart)",
                self.source,
                f"{self.used:,}",
                f"{photos:,}",
            )


def report_skip(location: str, error: ValueError, strict: bool) -> None:
    """Logs that a row is skipped, and why.

    Raises:
        ValueError: with the location before the reason, if `strict`.
    """
    if strict:
        raise ValueError(f"{location}: {error}") from error
    logger.warning("%s is skipped: %s", location, error)
