"""What retrieval looks like: recall curves, and a page of the texts that miss their images by most."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.images import load_image
from ..data.rows import Row
from ..visualize import plot_recall_curves
from ..visualize.pages import Picture, Section, write_page


logger = logging.getLogger(__name__)


def draw_retrieval(
    reports: Mapping[str, Mapping[str, Any]], rows: Sequence[Row], folder: Path, name: str
) -> list[Path]:
    """
    Draws `NAME-SET-recall.png` and `NAME-SET-misses.html` of each set of texts into a folder, as far as there are any.

    Args:
        reports: By set of texts, see [`RetrievalProbe.report`].
        rows: The measured rows, for their images.
        folder, name: Of the files.

    Returns:
        The files. Without matplotlib there are no curves, and the log says so.
    """
    paths = []
    for of_set, report in reports.items():
        if "misses" not in report:
            continue
        page = folder / f"{name}-{of_set}-misses.html"
        sections = [_section(miss, rows) for miss in report["misses"]]
        summary = "By the cosine of text and image embedding. In the frame: the image that the text is of."
        paths.append(write_page(page, f"{name}, {of_set} texts: furthest from their images", sections, summary=summary))
        try:
            paths.append(plot_recall_curves(report["curves"], folder / f"{name}-{of_set}-recall.png"))
        except ImportError as error:
            logger.warning("no recall curves: %s", error)
    return paths


def _section(miss: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    own = Picture(load_image(rows[miss["image"]]["image"]), f"its own, rank {miss['rank']:g}", is_marked=True)
    first = [
        Picture(load_image(rows[place]["image"]), f"rank {rank}", is_marked=place == miss["image"])
        for rank, place in enumerate(miss["first"], 1)
    ]
    return Section(miss["text"], [own, *first])
