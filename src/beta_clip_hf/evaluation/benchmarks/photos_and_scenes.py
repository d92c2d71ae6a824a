"""Tasks that need no download of a benchmark: your own captioned photos, and generated scenes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.grouping import group_rows
from ...data.rows import Row, check_row, with_image
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
    from ...data.readers import holds_rows

    if source.is_dir():
        return any(any(source.glob(mark)) for mark in _PHOTOS_MARKS) or holds_rows(source)
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
        return [Annotations("retrieval", _read_any_source(source, root, reading, group), in_folder(root))]
    root = file.parent
    rows: list[Row] = list(convert_records(file, read_lines(file), check_row))
    if group:
        rows = group_rows(rows)
    parts = [Annotations("retrieval", rows, in_folder(root))]
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
        parts.append(Annotations(kind, group_by_image(items, kind), in_folder(root), name=name))
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


def _read_any_source(source: Path, root: Path, reading: Mapping[str, Any], group: bool) -> list[Row]:
    """Reads the rows of tars, CSV files and anything else that training reads. A row that cannot be used raises."""
    from ...data.readers import load_rows

    dataset: Any = load_rows(source, **{"split": "test", **reading}, group=group, strict=True)
    if hasattr(dataset, "__len__"):
        # A data set that is read by index need not end an iteration.
        rows = [dataset[index] for index in range(len(dataset))]
    else:
        rows = list(dataset)
        # Here the whole stream is known, so its rows can be grouped.
        if group:
            rows = group_rows(rows)
    named_rows = []
    for row in rows:
        if isinstance(row["image"], str | Path):
            # Names of images must not depend on where the files are: they are hashed.
            row = with_image(row, os.path.relpath(row["image"], root))
        named_rows.append(row)
    return named_rows
