"""Tasks that need no download of a benchmark: your own captioned photos, and generated scenes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...data.rows import Row, check_row
from .layout import Annotations, Kind, Place, by_image, corners, each, read_lines, text, texts


NUM_SCENES = 500
SCENES_SEED = 271828  # far from the seeds that people train with

# A folder of photos has one of these; tars of another split too, so that the advice is to name them.
_PHOTOS = (
    *("test.jsonl", "test-*.jsonl", "*.tar"),
    *("metadata.jsonl", "metadata.csv", "metadata.parquet", "test/metadata.*"),
    *("test*.csv", "test*.parquet", "data/test*.parquet", "dataset_info.json", "dataset_dict.json"),
)

_EVAL = {"fg_ovd": "fgovd.jsonl", "sugarcrepe": "sugarcrepe.jsonl", "valse": "valse.jsonl"}


def holds_photos(source: Path) -> bool:
    """Whether there are rows: a file, files by a glob or a range as of tars, or a folder that holds some."""
    from ...data.formats.webdataset import expand_shards

    if source.is_dir():
        return any(any(source.glob(name)) for name in _PHOTOS)
    try:
        return bool(expand_shards(source))
    except ValueError:
        return False


def read_photos(place: Place) -> list[Annotations]:
    """Rows as in training, with any of captions, phrases and regions; and, where `eval` holds them, regions with hard
    negatives (`fgovd.jsonl`) and captions with a foil (`sugarcrepe.jsonl`, `valse.jsonl`)."""
    source = place.folder
    file = source if source.is_file() else source / "test.jsonl"
    if not (file.suffix == ".jsonl" and file.is_file()):
        root = source if source.is_dir() else source.parent
        return [Annotations("retrieval", list(_rows_of_any_source(source, root)), root.__truediv__)]
    rows: list[Row] = list(each(file, read_lines(file), check_row))
    parts = [Annotations("retrieval", rows, file.parent.__truediv__)]
    for name, eval_name in _EVAL.items():
        if (eval_file := file.parent / "eval" / eval_name).is_file():
            what: Kind = "regions" if name == "fg_ovd" else "choices"
            items = by_image(_items(eval_file, name), what)
            parts.append(Annotations(what, items, file.parent.__truediv__, name=name))
    return parts


def scenes(image_size: int) -> Any:
    """The generated scenes, of level "medium"."""
    from ...data.scenes import SceneDataset

    return SceneDataset(NUM_SCENES, seed=SCENES_SEED, image_size=image_size)


def _items(file: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    def convert(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        item: dict[str, Any] = {
            "text": text(record["positive"], "positive"),
            "subset": text(record["subset"], "subset"),
        }
        if name == "fg_ovd":
            item |= {"box": corners(record["box"], "box"), "negatives": texts(record["negatives"], "negatives")}
        else:
            item |= {"negatives": [text(record["negative"], "negative")], "id": f"{record['subset']}:{record['id']}"}
        return text(record["image"], "image"), item

    return each(file, read_lines(file), convert)


def _rows_of_any_source(source: Path, root: Path) -> Iterator[dict[str, Any]]:
    """Tars, CSV and all else that training reads; a row that cannot be used is an error."""
    from ...data.readers import load_rows

    rows = load_rows(source, split="test", strict=True)
    for row in (rows[index] for index in range(len(rows))) if hasattr(rows, "__len__") else rows:
        has_file = isinstance(row["image"], (str, Path))
        yield {**row, "image": os.path.relpath(row["image"], root)} if has_file else row
