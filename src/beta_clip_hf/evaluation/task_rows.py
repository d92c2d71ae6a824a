"""The rows of a task: which of them are measured, what tells whether they have changed, and how that is named."""

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from ..data.rows import Row
from ..inference.identity import image_digest
from .benchmarks import Reading
from .protocols import Protocol


def image_stamps(rows: Sequence[Row]) -> Iterator[str]:
    """
    Yields for each image a string that changes when the image is replaced.

    It is size and time of a file, else a hash of the content. Generated images (no list of rows) have none: the key of
    their reading holds their seed.
    """
    if not isinstance(rows, list):
        return
    for row in rows:
        image = row["image"]
        try:
            if isinstance(image, str):
                stat = os.stat(image)
                yield f"{stat.st_size} {stat.st_mtime_ns}"
            else:
                yield image_digest(image).hex()
        # Whoever reads the image says what is wrong with it.
        except (OSError, TypeError, ValueError, KeyError, AttributeError):
            yield "unreadable"


def first_rows(rows: Any, limit: int | None) -> Any:
    """Returns the first `limit` rows, read when they are used; all of them if it is `None`."""
    if limit is None:
        return rows
    return torch.utils.data.Subset(rows, range(min(limit, len(rows))))


def rows_without(rows: Any, lost: Collection[int]) -> Any:
    """Returns the rows but for those at some places, read when they are used."""
    if not lost:
        return rows
    return torch.utils.data.Subset(rows, [index for index in range(len(rows)) if index not in lost])


def marked_name(protocol: Protocol, reading: Reading, limit: int | None, num_unreadable: int) -> str:
    """
    Returns the name of the protocol, with a mark if only a part of the data was measured.

    Args:
        protocol: The rules.
        reading: The data.
        limit: Number of images that were to be measured; `None` for all.
        num_unreadable: Number of images that could not be read.
    """
    name = protocol.name
    if reading.is_subset:
        name = f"{name} ({reading.subset_note})"
    if limit is not None:
        name = f"{name} (first {limit})"
    if num_unreadable:
        images = "image" if num_unreadable == 1 else "images"
        name = f"{name} (without {num_unreadable:,} unreadable {images})"
    return name
