"""Tasks that need no download of a benchmark: your own captioned photos, and generated scenes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.grouping import group_rows
from ...data.records import as_value_error
from ...data.row_counts import SkippedRow
from ...data.rows import Row, check_row, with_image, without_blank_captions
from .layout import (
    Annotations,
    Kind,
    Place,
    convert_records,
    group_by_image,
    in_folder,
    read_lines,
    require_box,
    require_text,
    require_texts,
)


NUM_SCENES = 500
# Far from the seeds that people train with.
SCENES_SEED = 271828

# A folder of photos has one of these files. Tars of any split count too: reading them then says that the tars must be
# named, which helps more than that the folder holds no photos.
_PHOTOS_MARKS = (
    *("test.jsonl", "test-*.jsonl", "*.tar"),
    *("metadata.jsonl", "metadata.csv", "metadata.parquet", "test/metadata.*"),
    *("test*.csv", "test*.parquet", "data/test*.parquet", "dataset_info.json", "dataset_dict.json"),
)

# The files in the folder `eval`, by the name of the part that they become.
_EVAL_FILES = {"fg_ovd": "fgovd.jsonl", "sugarcrepe": "sugarcrepe.jsonl", "valse": "valse.jsonl"}


def holds_photos(source: Path) -> bool:
    """Tells whether there are rows: a file, files by a glob or a range as of tars, or a folder that holds some."""
    from ...data.formats.webdataset import expand_shards
    from ...data.readers import format_of_rows

    if source.is_dir():
        return any(any(source.glob(mark)) for mark in _PHOTOS_MARKS) or format_of_rows(source) is not None
    if not source.parent.exists():
        # A path of two words that lead nowhere is the id of a data set on the Hub.
        return len(source.parts) == 2
    try:
        return bool(expand_shards(source))
    except ValueError:
        return False


def read_photos(place: Place) -> list[Annotations]:
    """
    Reads rows as in training, which may have captions, phrases and regions.

    The folder `eval` beside them may hold regions with hard negatives (`fgovd.jsonl`) and captions with a foil
    (`sugarcrepe.jsonl`, `valse.jsonl`).
    """
    source = place.folder
    file = source
    if not source.is_file():
        file = source / "test.jsonl"
    reading = dict(place.reading)
    group = reading.pop("group", True)
    if reading or file.suffix != ".jsonl" or not file.is_file():
        root = source if source.is_dir() else source.parent
        rows, skipped = _read_any_source(source, root, reading, group)
        return [Annotations("retrieval", rows, in_folder(root), are_own=True, skipped=skipped)]
    root = file.parent
    rows, skipped = _read_own_lines(file)
    if group:
        rows = group_rows(rows)
    parts = [Annotations("retrieval", rows, in_folder(root), are_own=True, skipped=skipped)]
    for name, eval_name in _EVAL_FILES.items():
        eval_file = root / "eval" / eval_name
        if not eval_file.is_file():
            continue
        kind: Kind = "choices"
        convert = _choice
        if name == "fg_ovd":
            kind = "regions"
            convert = _region
        items = convert_records(eval_file, read_lines(eval_file), convert)
        parts.append(Annotations(kind, group_by_image(items, kind), in_folder(root), name=name, are_own=True))
    return parts


def scenes(image_size: int) -> Any:
    """Returns the generated scenes of level "medium", with images of that many pixels per side."""
    from ...data.scenes import SceneDataset

    return SceneDataset(NUM_SCENES, seed=SCENES_SEED, image_size=image_size)


def _region(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the image and the region of a record of `fgovd.jsonl`."""
    region = {
        "text": require_text(record["positive"], "positive"),
        "subset": require_text(record["subset"], "subset"),
        "box": require_box(record["box"], "box"),
        "negatives": require_texts(record["negatives"], "negatives"),
    }
    return require_text(record["image"], "image"), region


def _choice(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the image and the choice of a record of `sugarcrepe.jsonl` or `valse.jsonl`."""
    choice = {
        "text": require_text(record["positive"], "positive"),
        "subset": require_text(record["subset"], "subset"),
        "negatives": [require_text(record["negative"], "negative")],
        "id": f"{record['subset']}:{record['id']}",
    }
    return require_text(record["image"], "image"), choice


def _read_own_lines(file: Path) -> tuple[list[Row], list[SkippedRow]]:
    """Reads rows from JSON lines. Lines that cannot be used are returned beside them."""
    from ...data.formats.json_files import JsonLines

    rows: list[Row] = []
    skipped = []
    for location, record in JsonLines(file).scan():
        try:
            if isinstance(record, ValueError):
                raise record
            row = check_row(without_blank_captions(record))
        # Whatever is wrong with a line, the others can still be used.
        except Exception as error:
            skipped.append(SkippedRow(location, location, str(as_value_error(error))))
            continue
        row.location = location
        rows.append(row)
    return rows, skipped


def _read_any_source(
    source: Path, root: Path, reading: Mapping[str, Any], group: bool
) -> tuple[list[Row], list[SkippedRow]]:
    """Reads the rows of tars, CSV files and anything else that training reads, and returns those skipped beside."""
    from ...data.readers import RowDataset, open_table

    # Tars are read by index, too: a stream would give each process of several a part of its own.
    dataset = RowDataset(*open_table(source, **{"split": "test", **reading}), group=group)
    rows = []
    for index in range(len(dataset)):
        row = dataset[index]
        if isinstance(row["image"], str | Path):
            # Names of images must not depend on where the files are: they are hashed.
            row = with_image(row, os.path.relpath(row["image"], root))
        rows.append(row)
    return rows, [SkippedRow(location, location, reason) for location, reason in dataset.skipped]
