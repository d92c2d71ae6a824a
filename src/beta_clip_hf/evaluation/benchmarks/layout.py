"""The result of a benchmark's reader, and the tools by which a reader finds and checks files. No image is opened."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...data.fields import check_box, check_text, check_texts, is_box, shown
from ...data.paths import find_path
from ...data.row_counts import SkippedRow
from ...data.rows import Row
from ...model.boxes_beta_clip import corner_box


# The kind of a part says what is measured on its rows, and which columns they have beside `image`. Boxes are xyxy
# pixels of the stored image.
#   retrieval   `caption`, a whole one; or `captions`, short ones; or both
#   choices     `choices`: `text`, `negatives`, `subset`, `id`
#   regions     `regions`: `box`, `text`, `negatives`, `subset`, `id`
#   classes     `label`
#   boxes       `regions`: `box`, `label`, `text` (the name of the class), `id`
#   phrases     `phrases`: `text`, `boxes`, `kind`
Kind = Literal["retrieval", "choices", "regions", "classes", "boxes", "phrases"]

T = TypeVar("T")

_CHUNK = 2**20
_BETWEEN_RECORDS = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Annotations:
    """A part of a benchmark as its annotations describe it, before the images are looked for."""

    kind: Kind
    rows: list[Row]
    """The rows. `image` is the name of the image in the benchmark, which does not depend on where the files are."""
    locate: Callable[[str], Path]
    """Returns the path where the image of a name should be."""
    name: str = ""
    """The name of the part; empty for the only or the main one."""
    published: Mapping[str, int] = field(default_factory=dict)
    """The counts that the benchmark must have, by the names of [`count_rows`] or of `counted`."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """Counts that the rows do not show, for example captions that the protocol leaves out."""
    absent: Sequence[str] = ()
    """Files of annotations that are missing."""
    class_names: Sequence[str] = ()
    """The names of the classes (for `classes` and `boxes`). Labels count from 0 in this order."""
    templates: Sequence[str] = ()
    """Prompts with `{}` for the name of a class (for `classes` and `boxes`)."""
    is_optional: bool = False
    """Whether the part is left out, instead of refused, if images of it are missing."""
    are_own: bool = False
    """Whether these are rows of the user's own: one that cannot be used is left out and named, not refused."""
    skipped: Sequence[SkippedRow] = ()
    """Rows that the reader has left out."""


@dataclass(frozen=True)
class Place:
    """Holds the place of a benchmark's files: its own folder, and for images also the folders beside it."""

    folder: Path
    data: Path
    """The path that the user gave: the folder itself, or the one that holds it."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How `load_rows` is to read your own photos: its arguments, `columns` and so on."""

    def find(self, *names: str, beside: Sequence[str] = ()) -> Path | None:
        """
        Returns the first file or directory that exists, or `None`.

        Args:
            names: Paths to look for in each folder, in this order.
            beside: Folders of `data` to look into after the benchmark's folder.
        """
        folders = [self.folder]
        folders += [self.data / name for name in beside]
        for folder in folders:
            for name in names:
                path = folder / name
                if path.exists():
                    return path
        return None

    def directory(self, *names: str, beside: Sequence[str] = ()) -> Path:
        """Returns the first directory that exists, see [`Place.find`], or the path where the first should be."""
        return self.find(*names, beside=beside) or self.folder / names[0]

    def file(self, name: str) -> Path | None:
        """Returns a file of annotations, or `None`. It may be in a folder `annotations` or `data`."""
        return self.find(name, f"annotations/{name}", f"data/{name}")

    def required(self, *names: str) -> Path:
        """
        Returns the first file of annotations that exists.

        Raises:
            ValueError: if none does.
        """
        for name in names:
            path = self.file(name)
            if path is not None:
                return path
        raise ValueError(f"{self.folder} must hold {' or '.join(names)}, but does not")

    def coco_images(self) -> Callable[[str], Path]:
        """
        Returns the function that locates an image of COCO by its name, for example "val2017/000000000139.jpg".

        The folders of COCO may be in the benchmark's folder, in `coco` beside it, or beside it themselves; each time
        also in `images`.
        """

        # There are three folders and more than 100,000 images.
        @cache
        def find_directory(name: str) -> Path:
            return self.directory(name, f"images/{name}", beside=("coco", "."))

        def locate(image: str) -> Path:
            folder, _, file = image.partition("/")
            return find_directory(folder) / file

        return locate


def in_folder(folder: Path) -> Callable[[str], Path]:
    """Returns the function that locates an image by its path in a folder."""

    def locate(image: str) -> Path:
        return Path(find_path(image, str(folder)))

    return locate


def count_rows(rows: Iterable[Row]) -> dict[str, int]:
    """
    Counts `images`, `captions`, `choices`, `regions` and `phrases`. Items with a `subset` are also counted by it, as
    `regions[hard]`. Counts of 0 are left out.

    >>> count_rows([{"captions": ["A cat.", "It sleeps."]}, {"regions": [{"subset": "hard"}, {"subset": "easy"}]}])
    {'images': 2, 'captions': 2, 'regions': 2, 'regions[hard]': 1, 'regions[easy]': 1}
    """
    counts: Counter[str] = Counter()
    for row in rows:
        counts["images"] += 1
        if "captions" in row or "caption" in row:
            counts["captions"] += len(row.get("captions") or [row["caption"]])
        for column in ("choices", "regions", "phrases"):
            items = row.get(column) or ()
            counts[column] += len(items)
            for item in items:
                if isinstance(item, dict) and "subset" in item:
                    counts[f"{column}[{item['subset']}]"] += 1
    return {name: count for name, count in counts.items() if count}


def group_by_image(items: Iterable[tuple[str, Any]], column: str) -> list[Row]:
    """
    Makes one row for each image, so that the image is encoded once. Images and their items keep their order.

    Args:
        items: The name of an image, and an item of it.
        column: The column of the items.

    >>> group_by_image([("a.jpg", 1), ("b.jpg", 2), ("a.jpg", 3)], "regions")
    [{'image': 'a.jpg', 'regions': [1, 3]}, {'image': 'b.jpg', 'regions': [2]}]
    """
    rows: dict[str, Row] = {}
    for image, item in items:
        row = rows.setdefault(image, {"image": image, column: []})
        row[column].append(item)
    return list(rows.values())


def require_text(value: Any, field: str) -> str:
    """Returns the value, which must be a text that is not empty; `field` names it in the error."""
    check_text(value, field)
    return value


def require_texts(value: Any, field: str) -> list[str]:
    """Returns the value, which must be at least one text; `field` names it in the error."""
    check_texts(value, field)
    if not value:
        raise ValueError(f"{field} must be at least one text, but is {shown(value)}")
    return list(value)


def require_box(box: Any, field: str) -> list[float]:
    """Returns the value, which must be a box [x1, y1, x2, y2]; `field` names it in the error."""
    check_box(box, field)
    return list(box)


def corners_from_size(box: Any, field: str) -> list[float]:
    """
    Converts [x, y, width, height] to [x1, y1, x2, y2]; `field` names the box in the error.

    >>> corners_from_size([1, 2, 3, 4], "bbox")
    [1, 2, 4, 6]
    """
    # Two boxes of the other kind check the parts: the size as one from the origin, the origin as one without a size.
    if is_box([0, 0, *box[2:]]) and is_box([*box[:2], *box[:2]]):
        return list(corner_box(box))
    raise ValueError(f"{field} must be [x, y, width, height], but is {shown(box)}")


@contextmanager
def located_errors(location: object) -> Iterator[None]:
    """Turns any error about a record into a `ValueError` that names the location of the record."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{location}: {error} must be there, but is missing") from error
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from error
    # The parser of XML raises a SyntaxError.
    except (TypeError, IndexError, AttributeError, SyntaxError) as error:
        raise ValueError(f"{location} must be as published, but is not: {error}") from error


def convert_records(file: Path, records: Any, convert: Callable[[Any], T]) -> Iterator[T]:
    """
    Converts each record of a list or a dict.

    Args:
        file: The file of the records, for the message.
        records: The records in order, or by key.
        convert: The function that converts a record.

    Raises:
        ValueError: names the file and the number or key of a record that cannot be converted.
    """
    numbered: Iterable[Any] = enumerate(records, 1)
    if isinstance(records, Mapping):
        numbered = records.items()
    for number, record in numbered:
        with located_errors(f"{file}, record {number}"):
            converted = convert(record)
        # Outside of the block: an error of the caller is not one of the record.
        yield converted


def read_json(path: Path) -> Any:
    """
    Reads a JSON file, without the outlines (`segmentation`) of objects, which take most of the memory.

    Raises:
        ValueError: if the file is not JSON.
    """
    from ...data.formats.coco import without_polygons
    from ...data.formats.json_files import read_json as read_json_file

    return read_json_file(path, object_hook=without_polygons)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """
    Reads the records of a JSONL file.

    Raises:
        ValueError: names the line that is not a JSON object.
    """
    from ...data.formats.json_files import JsonLines

    records = []
    for location, record in JsonLines(path).scan():
        if isinstance(record, ValueError):
            raise ValueError(f"{location} must be a JSON object, but is not: {record}") from record
        records.append(dict(record))
    return records


def first_records(path: Path, count: int) -> list[Any]:
    """
    Reads the first records of a JSON file that holds one list, or all records of a shorter list.

    The rest of the file, which may have gigabytes, is not read.

    Raises:
        ValueError: if the part that is read is not a JSON list.
    """
    decoder = json.JSONDecoder()
    records: list[Any] = []
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path.name} must be a JSON list, but begins with {text[:20]!r}")
        position = 1
        while len(records) < count:
            between = _BETWEEN_RECORDS.match(text, position)
            position = between.end() if between else position
            if text.startswith("]", position):
                break
            try:
                record, position = decoder.raw_decode(text, position)
                records.append(record)
            except ValueError as error:
                # The record may go on in the next part of the file.
                more = file.read(_CHUNK)
                if not more:
                    raise ValueError(f"{path.name} must be JSON, but is not: {error}") from error
                text = text[position:] + more
                position = 0
    return records
