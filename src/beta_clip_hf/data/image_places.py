"""Finds the folder of the images where a file of captions does not lie beside them."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .paths import find_path
from .records import Table
from .row_reader import RowReader


# Rows and folders that are looked at.
_ROWS, _FOLDERS = 20, 200
# Folders that hold captions and no images. The images lie beside them.
_CAPTION_FOLDERS = ("annotation", "annotations", "captions", "json", "labels", "metadata", "text", "texts")


def folder_of_images(table: Table, reader: RowReader, folder: Path) -> Path:
    """Returns the folder that relative image paths start from.

    Data sets come with their images in a folder beside the captions (`Images/` of Flickr8k) or beside the folder
    `annotations` (`val2017/` of COCO). Such a folder is taken if the first rows have no image in the folder of the
    captions, but some in the other. So is the current directory, which scripts write paths from.

    Args:
        table: The records.
        reader: Makes rows of them.
        folder: The folder of the captions.
    """
    names = list(_image_names(table, reader))
    if not names or _count_files(folder, names):
        return folder
    best, best_count = folder, 0
    for candidate in islice(_folders_near(folder), _FOLDERS):
        count = _count_files(candidate, names)
        if count > best_count:
            best, best_count = candidate, count
    return best


def _image_names(table: Table, reader: RowReader) -> Iterator[str]:
    """Yields the relative image paths of the first rows."""
    for _, record in islice(table.scan(), _ROWS):
        name = None
        if not isinstance(record, ValueError):
            name = reader.image_name(record)
        # An absolute path or an address says nothing about the folder.
        if name is not None and not os.path.isabs(name) and "://" not in name:
            yield name


def _count_files(folder: Path, names: list[str]) -> int:
    return sum(os.path.isfile(find_path(name, str(folder))) for name in names)


def _folders_near(folder: Path) -> Iterator[Path]:
    """Yields the current directory, the folders in a folder, those in them, and the folders beside it."""
    yield Path.cwd()
    inside = _subfolders(folder)
    yield from inside
    for subfolder in inside[:_ROWS]:
        yield from _subfolders(subfolder)
    if folder.absolute().name.lower() in _CAPTION_FOLDERS:
        yield folder.absolute().parent
        yield from _subfolders(folder.absolute().parent)


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    return [path for path in entries if path.is_dir()]
