"""Draws what retrieval looks like: recall curves, and a page of the texts whose images are ranked furthest behind."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.images import load_image, thumbnail
from ..data.rows import Row
from ..visualize import plot_recall_curves
from ..visualize.pages import Picture, Section, write_page
from .retrieval import CHANCE, curve_label


logger = logging.getLogger(__name__)

# Pages show pictures smaller. The images themselves would fill the memory.
_SIDE = 512


def draw_retrieval(
    reports: Mapping[str, Mapping[str, Any]], rows: Sequence[Row], folder: Path, name: str
) -> list[Path]:
    """
    Draws `NAME-SET-recall.png` and `NAME-SET-misses.html` for each set of texts that was measured.

    Args:
        reports: Reports of the probes by name, see [`RetrievalProbe.report`]. Those of other probes are skipped.
        rows: The measured rows, for their images.
        folder: Directory for the files.
        name: Beginning of their names.

    Returns:
        The paths of the files. Without matplotlib there are no curves, and the log says so.
    """
    paths = []
    # Only probes of retrieval report misses.
    for text_set, report in reports.items():
        if "misses" not in report:
            continue
        sections = [_section(miss, rows) for miss in report["misses"]]
        page = write_page(
            folder / f"{name}-{text_set}-misses.html",
            f"{name}, {text_set} texts: furthest from their images",
            sections,
            summary="By the cosine of text and image embedding. The image that the text belongs to has a frame.",
        )
        paths.append(page)
        try:
            file = folder / f"{name}-{text_set}-recall.png"
            paths.append(plot_recall_curves(report["curves"], file, chance_labels=[curve_label(text_set, CHANCE)]))
        except ImportError as error:
            # The page above needs no matplotlib, so it stays.
            logger.warning("no recall curves: %s", error)
    return paths


def _small(image: Any) -> Image.Image:
    return thumbnail(load_image(image), _SIDE)


def _section(miss: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    """One text with its own image, and the images that are ranked first for it."""
    own_image = _small(rows[miss["image"]]["image"])
    pictures = [Picture(own_image, f"its own, rank {miss['rank']:g}", is_marked=True)]
    for rank, image in enumerate(miss["first"], start=1):
        picture = Picture(_small(rows[image]["image"]), f"rank {rank}", is_marked=image == miss["image"])
        pictures.append(picture)
    return Section(miss["text"], pictures)
