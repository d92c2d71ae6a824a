"""Reads the images of rows and runs the image processor on them, in worker processes if there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.columns import CAPTION_COLUMNS
from ..data.images import load_image
from ..data.row_counts import SkippedRow, lost_row
from ..data.rows import Row, check_row, row_id
from ..model.image_views_beta_clip import within_memory
from ..model.patch_budgets_beta_siglip2 import process_by_budget
from .identity import image_digest


@dataclass(frozen=True)
class ProcessedImages:
    """B images ready for a model, on the CPU."""

    indices: list[int]
    """The place of each image in the data set."""
    rows: list[Row]
    """The rows of the images, without the images."""
    sizes: list[tuple[int, int]]
    """Width and height of each image in pixels, before any processing."""
    digests: list[bytes]
    """SHA-256 of each image, see [`image_digest`]."""
    inputs: dict[str, Tensor]
    """What the image processor returns: `pixel_values`, and for some processors masks and shapes."""
    lost: dict[int, SkippedRow] = field(default_factory=dict)
    """The images of the batch that cannot be used, by their place in the data set. They are not among the others."""

    def pin_memory(self) -> "ProcessedImages":
        """Returns the images in pinned memory, from which a GPU copies while it computes. A DataLoader calls this."""
        return replace(self, inputs={name: tensor.pin_memory() for name, tensor in self.inputs.items()})


class ImageReader:
    """
    Reads batches of images by their places in a data set. It is the `collate_fn` of a DataLoader over these places, so
    that workers decode and resize.

    Args:
        rows: Rows with an `image`.
        image_processor: Resizes, crops and normalises.
        options: Options of the image processor by which it returns bytes, `UNSCALED`, or none.
        by_budget: Whether each image takes as many patches as it needs, see [`process_by_budget`].
        keeps_going: Whether an image that cannot be used is told in `lost`, instead of raised.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        image_processor: Any,
        options: Mapping[str, Any] | None = None,
        *,
        by_budget: bool = False,
        keeps_going: bool = False,
    ) -> None:
        self.rows = rows
        self.image_processor = image_processor
        self.options = dict(options or {})
        self.by_budget = by_budget
        self.keeps_going = keeps_going

    def __call__(self, indices: Sequence[int]) -> ProcessedImages:
        """
        Reads the images at some places of the data set.

        Raises:
            ValueError: if an image cannot be read, unless `keeps_going`.
        """
        try:
            return self._read(indices)
        except Exception:
            if not self.keeps_going:
                raise
            # The exception does not say which image it is about, so each is tried by itself.
            lost = self._find_lost(indices)
            if not lost:
                raise
        remaining = [index for index in indices if index not in lost]
        if not remaining:
            return ProcessedImages(indices=[], rows=[], sizes=[], digests=[], inputs={}, lost=lost)
        return replace(self._read(remaining), lost=lost)

    def _find_lost(self, indices: Sequence[int]) -> dict[int, SkippedRow]:
        """Returns the images that cannot be used, by their place in the data set."""
        lost = {}
        for index in indices:
            row: Any = {}
            try:
                row = self.rows[index]
                self._read([index])
            # A row may break a table, a codec or the image processor in any way. That is this row's alone.
            except Exception as error:
                lost[index] = lost_row(row, error)
        return lost

    def _read(self, indices: Sequence[int]) -> ProcessedImages:
        # Each row is read once: the sequence may be a table that decodes an image every time it is asked for a row.
        rows = [self.rows[index] for index in indices]
        images = [_image_of(row) for row in rows]
        return ProcessedImages(
            indices=list(indices),
            # A worker pickles its result. Images would travel to the main process, which does not need them.
            rows=[without_image(row) for row in rows],
            sizes=[image.size for image in images],
            # The file is hashed, not the decoded image: decoders differ in the last bit of a pixel.
            digests=[image_digest(row["image"]) for row in rows],
            inputs=self.process(images),
        )

    def process(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """Runs the image processor on images that have been read, and returns the inputs of the model."""
        if self.by_budget:
            return process_by_budget(images, self.image_processor)
        small_images = within_memory(images, self.image_processor)
        inputs = dict(self.image_processor(small_images, return_tensors="pt", **self.options))
        if self.options and inputs["pixel_values"].dtype != torch.uint8:
            # The processor resizes to fractions of levels.
            inputs = dict(self.image_processor(small_images, return_tensors="pt"))
        return inputs


def _image_of(row: Row) -> Any:
    try:
        return load_image(row["image"])
    except ValueError as error:
        # The path of the image of a query says enough. An image inside of a table has no name of its own.
        if isinstance(row["image"], str | Path) and row.get("id") is None:
            raise
        raise ValueError(f"row {row_id(row)}: {error}") from error


def read_usable_texts(rows: Sequence[Row]) -> tuple[list[Row], dict[int, SkippedRow]]:
    """
    Reads all rows without keeping their images. A row that cannot be used costs itself.

    Rows with a caption are checked here, unless a reader has checked them. Rows of a benchmark may have no caption.

    Returns:
        The rows without their images, with {} in the place of one that cannot be used; and these, by their place.
    """
    texts: list[Row] = []
    lost = {}
    for index in range(len(rows)):
        row: Any = {}
        try:
            # One row at a time, so that only one image is in memory.
            row = rows[index]
            texts.append(_texts_of(row))
        # A row may break a table or a check in any way. That is this row's alone.
        except Exception as error:
            texts.append({})
            lost[index] = lost_row(row, error)
    return texts, lost


def _texts_of(row: Row) -> Row:
    if any(name in row for name in CAPTION_COLUMNS):
        row = check_row(row)
    return without_image(row)


def without_image(row: Row) -> Row:
    """Copies a row without its image."""
    return {name: value for name, value in row.items() if name != "image"}
