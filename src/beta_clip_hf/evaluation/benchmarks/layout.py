"""What a reader of a benchmark gives, and how it finds its files. Nothing here opens an image."""

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
from ...data.rows import Row
from ...model.boxes_beta_clip import corner_box


# What is measured on the rows of a part, and the columns that they have for it beside `image`; boxes are xyxy pixels of
# the stored image:
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
    """One part of a benchmark as its annotations describe it, before anyone has looked for the images."""

    kind: Kind
    rows: list[Row]
    """`image` is the name under which the benchmark knows the image: the same wherever the files are."""
    locate: Callable[[str], Path]
    """Where the image of that name should be."""
    name: str = ""
    """Of the part; empty for the only or the main one."""
    published: Mapping[str, int] = field(default_factory=dict)
    """The counts that the benchmark must have, by the names of [`count_rows`] or of `counted`."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """What the reader has counted and the rows do not show, as captions that the protocol leaves out."""
    absent: Sequence[str] = ()
    """Files of annotations that are not there."""
    class_names: Sequence[str] = ()
    """Of `classes` and `boxes`: the labels count from 0 in this order."""
    templates: Sequence[str] = ()
    """Of `classes`: prompts with `{}` for the name."""
    is_optional: bool = False
    """Whether the part is left out, rather than refused, where images of it are not there."""


@dataclass(frozen=True)
class Place:
    """Where the files of a benchmark are: in its own folder, and images also in folders beside it."""

    folder: Path
    data: Path
    """What the user gave: the folder itself, or the one that holds it."""

    def find(self, *names: str, beside: Sequence[str] = ()) -> Path | None:
        """The first of some files or directories that exists: in the own folder, then in `beside`, folders of
        `data`."""
        bases = (self.folder, *(self.data / one for one in beside))
        return next((path for base in bases for name in names if (path := base / name).exists()), None)

    def directory(self, *names: str, beside: Sequence[str] = ()) -> Path:
        """As [`Place.find`]; where none exists, the place where the first should be."""
        return self.find(*names, beside=beside) or self.folder / names[0]

    def file(self, name: str) -> Path | None:
        """A file of annotations, which many keep in a folder of that name."""
        return self.find(name, f"annotations/{name}", f"data/{name}")

    def required(self, *names: str) -> Path:
        """The first of some files of annotations that exists.

        Raises:
            ValueError: where none does.
        """
        for name in names:
            if path := self.file(name):
                return path
        raise ValueError(f"{self.folder} must hold {' or '.join(names)}, but does not")

    def coco_images(self) -> Callable[[str], Path]:
        """Locates "val2017/000000000139.jpg": COCO's folders may be in the own folder, in `coco` beside it, and in each
        case in `images`."""

        @cache
        def directory(name: str) -> Path:
            return self.directory(name, f"images/{name}", beside=("coco", "."))

        def locate(image: str) -> Path:
            folder, _, file = image.partition("/")
            return directory(folder) / file

        return locate


def count_rows(rows: Iterable[Row]) -> dict[str, int]:
    """How many `images`, `captions`, `choices`, `regions` and `phrases` there are; those with a `subset` also by it, as
    `regions[hard]`.

    >>> count_rows([{"captions": ["A cat.", "It sleeps."]}, {"regions": [{"subset": "hard"}, {"subset": "easy"}]}])
    {'images': 2, 'captions': 2, 'regions': 2, 'regions[hard]': 1, 'regions[easy]': 1}
    """
    counts: Counter[str] = Counter()
    for row in rows:
        counts["images"] += 1
        if "captions" in row or "caption" in row:
            counts["captions"] += len(row.get("captions") or [row["caption"]])
        for what in ("choices", "regions", "phrases"):
            items = row.get(what) or ()
            counts[what] += len(items)
            counts.update(f"{what}[{item['subset']}]" for item in items if isinstance(item, dict) and "subset" in item)
    return {what: number for what, number in counts.items() if number}


def by_image(items: Iterable[tuple[str, Any]], what: str) -> list[Row]:
    """One row per image, so that it is encoded once; images and their items in the order in which they come.

    >>> by_image([("a.jpg", 1), ("b.jpg", 2), ("a.jpg", 3)], "regions")
    [{'image': 'a.jpg', 'regions': [1, 3]}, {'image': 'b.jpg', 'regions': [2]}]
    """
    rows: dict[str, Row] = {}
    for image, item in items:
        rows.setdefault(image, {"image": image, what: []})[what].append(item)
    return list(rows.values())


def text(value: Any, field: str) -> str:
    """The value, which must be a text that is not empty."""
    check_text(value, field)
    return value


def texts(value: Any, field: str) -> list[str]:
    """The value, which must be texts, one at least."""
    check_texts(value, field)
    if not value:
        raise ValueError(f"{field} must be at least one text, but is {shown(value)}")
    return list(value)


def xyxy(box: Any, field: str) -> list[float]:
    """[x1, y1, x2, y2] of [x, y, width, height]."""
    if is_box([0, 0, *box[2:]]) and is_box([*box[:2], *box[:2]]):
        return list(corner_box(box))
    raise ValueError(f"{field} must be [x, y, width, height], but is {shown(box)}")


def corners(box: Any, field: str) -> list[float]:
    """The value, which must be a box [x1, y1, x2, y2]."""
    check_box(box, field)
    return list(box)


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Whatever is wrong with a record becomes a `ValueError` that says where it is."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{where}: {error} must be there, but is missing") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except (TypeError, IndexError, AttributeError, SyntaxError) as error:  # the last one is of XML
        raise ValueError(f"{where} must be as published, but is not: {error}") from error


def each(file: Path, records: Any, convert: Callable[[Any], T]) -> Iterator[T]:
    """
    What a function makes of each record of a list or a dict.

    Raises:
        ValueError: names the file and the number or key of the record that the function cannot use.
    """
    for name, record in records.items() if isinstance(records, Mapping) else enumerate(records, 1):
        with naming(f"{file}, record {name}"):
            made = convert(record)
        yield made


def read_json(path: Path) -> Any:
    """The content of a JSON file, without the outlines (`segmentation`) of objects.

    Raises:
        ValueError: where it is no JSON.
    """
    from ...data.formats.coco import without_polygons
    from ...data.formats.json_files import read_json as read

    return read(path, object_hook=without_polygons)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file.

    Raises:
        ValueError: names the line that is no JSON object.
    """
    from ...data.formats.json_files import JsonLines

    records = []
    for location, record in JsonLines(path).scan():
        if isinstance(record, ValueError):
            raise ValueError(f"{location} must be a JSON object, but is not: {record}") from record
        records.append(dict(record))
    return records


def first_records(path: Path, number: int) -> list[Any]:
    """The first records of a JSON file that is one list, or all of a shorter one; the rest of the file, which may have
    gigabytes, is not read.

    Raises:
        ValueError: where it is no JSON list as far as it is read.
    """
    decoder, place = json.JSONDecoder(), 1
    records: list[Any] = []
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path.name} must be a JSON list, but begins with {text[:20]!r}")
        while len(records) < number:
            between = _BETWEEN_RECORDS.match(text, place)
            place = between.end() if between else place
            if text.startswith("]", place):
                break
            try:
                record, place = decoder.raw_decode(text, place)
                records.append(record)
            except ValueError as error:  # the end of the record has not been read yet
                more = file.read(_CHUNK)
                if not more:
                    raise ValueError(f"{path.name} must be JSON, but is not: {error}") from error
                text, place = text[place:] + more, 0
    return records
