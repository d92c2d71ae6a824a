"""Holds some of the photos of a data set out of the training, so that it can be evaluated on them."""

import hashlib
import math
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .fingerprint import data_fingerprint
from .grouping import QUICK_BYTES, image_key, quick_content, read_image
from .rows import Row


class HeldOutPart(Dataset[Row]):
    """Some rows of a data set: those that are held out, or those that are left to train on.

    Args:
        rows: The data set.
        numbers: Numbers of the rows in it.
        part: "train" or "held out".

    Attributes:
        skipped: Rows that could not be read, of the part that is trained on.
        fingerprint (`str`): What a resumed run knows the rows by.
    """

    def __init__(self, rows: Any, numbers: Sequence[int], part: str) -> None:
        self.rows = rows
        self.numbers = array("Q", numbers)
        self.skipped: Any = getattr(rows, "skipped", []) if part == "train" else []
        digest = hashlib.sha256(self.numbers.tobytes()).hexdigest()
        self.fingerprint = f"{data_fingerprint(rows)}-{part}-{digest}"

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Row:
        return self.rows[self.numbers[index]]

    def record_ids(self) -> list[str]:
        """Returns the ids of all records of these rows, which `load_rows(select=…)` takes."""
        ids: list[str] = []
        for number in self.numbers:
            ids += self.rows.record_ids(number)
        return ids


def hold_out(rows: Any, fraction: float, seed: int = 0) -> tuple[HeldOutPart, HeldOutPart]:
    """Divides the rows of a data set by photo.

    Which photos are held out depends on their content and the seed, not on their order. Rows of the same photo, and
    copies of its file, are on the same side.

    Args:
        rows: A data set that is read by index.
        fraction: The share that is held out, at least two photos.
        seed: Another seed holds other photos out.

    Returns:
        The rows to train on, and those that are held out.

    Raises:
        ValueError: if the fraction is not between 0 and 1, the data set is a stream, or too few photos are left.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"eval_fraction must be above 0 and below 1, but is {fraction!r}")
    if not hasattr(rows, "__len__"):
        raise ValueError(
            "eval_fraction must be left out for a stream, whose photos are not known before they come: name other rows "
            "to evaluate on (--eval-data), or give 0"
        )
    rows_of_photo: dict[bytes, list[int]] = {}
    for number in range(len(rows)):
        key = hashlib.sha256(b"%d " % seed + _photo_key(rows[number]["image"])).digest()
        rows_of_photo.setdefault(key, []).append(number)
    wanted = max(2, math.floor(len(rows_of_photo) * fraction + 0.5))
    if len(rows_of_photo) < wanted + 2:
        raise ValueError(
            f"eval_fraction must leave at least two photos to train on, but there are {len(rows_of_photo)}, of which "
            f"{wanted} are held out: add photos, or train without an evaluation (--eval-fraction 0)"
        )
    held: list[int] = []
    for key in sorted(rows_of_photo)[:wanted]:
        held += rows_of_photo[key]
    is_held = set(held)
    rest = [number for number in range(len(rows)) if number not in is_held]
    return HeldOutPart(rows, rest, "train"), HeldOutPart(rows, sorted(held), "held out")


def _photo_key(image: Any) -> bytes:
    """Returns a key that is the same for copies of a photo. It costs little also for a large file."""
    image = read_image(image)
    if isinstance(image, bytes):
        return quick_content(image)
    if isinstance(image, str | Path):
        # An address has no file, and neither has an image that the collator will find missing.
        with suppress(OSError):
            return _quick_content_of_file(image)
    return image_key(image)


def _quick_content_of_file(path: str | Path) -> bytes:
    """Returns the [`quick_content`] of a file, of which no more is read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(QUICK_BYTES)
        file.seek(max(0, size - QUICK_BYTES))
        return b"%d " % size + beginning + file.read(QUICK_BYTES)


__all__ = ["HeldOutPart", "hold_out"]
