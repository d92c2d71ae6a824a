"""Names of columns: renames those of a source and says which ones are missing."""

import shlex
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any


CAPTION_COLUMNS = ("caption", "captions", "conversations", "messages")
IMAGE_COLUMNS = ("image", "images", "file_name")

# Columns of well-known data sets. They make the hint of an error concrete. Nothing is renamed without being asked.
_USUAL_NAMES = {
    "image": ("filename", "image_path", "img", "path", "jpg", "filepath"),
    "caption": ("text", "long_caption", "description", "sentence", "title"),
}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Names by which a line of column names is known.
COLUMN_NAMES = frozenset((*CAPTION_COLUMNS, *IMAGE_COLUMNS, *_USUAL_NAMES["image"], *_USUAL_NAMES["caption"]))


def rename_columns(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Renames columns of a record.

    Args:
        record: The record; it is not changed.
        columns: `{present: wanted}`. If the wanted name is there already, its value is dropped.

    >>> rename_columns({"text": "A cat.", "image": "cat.jpg"}, {"text": "caption"})
    {'image': 'cat.jpg', 'caption': 'A cat.'}
    """
    renamed = {name: value for name, value in record.items() if name not in columns}
    for present, wanted in columns.items():
        if present in record:
            renamed[wanted] = record[present]
    return renamed


def check_columns(columns: Collection[str], source: str) -> None:
    """Makes sure that a source has the columns that a row needs.

    Args:
        columns: Names of the columns, after renaming.
        source: Name of the source in the message.

    Raises:
        ValueError: names the columns that are there and how to rename one.

    >>> check_columns(["image", "caption", "source"], "train.jsonl")
    """
    missing = []
    if not any(name in columns for name in IMAGE_COLUMNS):
        missing.append("image")
    if not any(name in columns for name in CAPTION_COLUMNS):
        missing.append("caption")
    if missing == ["caption"] and set(columns) <= {"id", "image", "file_name"}:
        raise ValueError(
            f"{source} must have captions, but has images only: write the text of each image into a .txt file beside "
            "it (cat.jpg, cat.txt), or all of them into metadata.jsonl"
        )
    if any(PurePath(column).suffix.lower() in _IMAGE_SUFFIXES for column in columns):
        raise ValueError(
            f"{source} must begin with a line of column names, as image,caption, but begins with {sorted(columns)}"
        )
    if missing == ["caption"] and "label" in columns:
        raise ValueError(
            f"{source} must have captions, but has the labels of a folder per class: write a text for each image into "
            "metadata.jsonl, or into a .txt file beside it; --columns label=caption would train on the names of classes"
        )
    if missing:
        likely = {name: _likely_column(name, columns) for name in missing}
        hint = ", ".join(f'"{likely[name]}": "{name}"' for name in missing)
        words = " ".join(shlex.quote(f"{likely[name]}={name}") for name in missing)
        raise ValueError(
            f'{source} must have the columns "image" and "caption" (or "captions"), but its columns are '
            f"{sorted(columns)}; rename with columns={{{hint}}} (--columns {words})"
        )


def _likely_column(wanted: str, columns: Collection[str]) -> str:
    """Returns the column that probably holds what is wanted, or a word that stands for its name."""
    names = {column.strip().lower(): column for column in columns}
    for usual_name in (wanted, *_USUAL_NAMES[wanted]):
        if usual_name in names:
            return names[usual_name]
    return f"your {wanted} column"
