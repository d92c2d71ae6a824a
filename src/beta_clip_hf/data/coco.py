"""COCO's annotation files as rows: captions and boxes of one or several files, brought together by the image's id."""

import logging
from collections.abc import Iterable
from math import inf
from typing import Any, NamedTuple

from ..model.boxes_beta_clip import corner_box
from .fields import check_text, is_box, is_inside, is_text, items, outside, shown
from .records import PackedTable, Record, Scan, ScannedByIndex, joined_name
from .row_dataset import RecordFormat


logger = logging.getLogger(__name__)

COCO = RecordFormat(image_field="file_name")

_Size = tuple[float, float]
_IMAGE_FIELDS = ("id", "file_name", "width", "height")
_ANNOTATION_FIELDS = ("id", "caption", "bbox", "phrase", "category_id", "negatives")


def is_coco(content: Any) -> bool:
    return isinstance(content, dict) and "images" in content and "annotations" in content


def without_polygons(value: dict[str, Any]) -> dict[str, Any]:
    """For `json.loads`: leaves out the outlines of objects while a file is read, which are most of it."""
    value.pop("segmentation", None)
    return value


class CocoTable(ScannedByIndex):
    """One record per image, with the names of a row: `file_name`, `captions`, `regions` (boxes in pixels, xyxy), `id`,
    and `width` and `height` where they are known.

    An annotation with a `caption` and no `bbox` is a caption of its image. One with a `bbox` ([x, y, width, height] in
    pixels) is a region; its text is its `phrase`, else its `caption`, else the name of its category; `negatives`, a
    list of texts, may come along. Annotations with `iscrowd` 1 are left out, and their number is logged.

    What cannot be used is an error that names the image or the annotation, its file and the field. A bad annotation is
    an error of its image; one whose image is unknown comes by itself at the end of `scan()`.

    Args:
        files: `(name, content)` of each file. Images are known by their id, in whichever file; categories are those of
            the annotation's own file.

    Raises:
        ValueError: where a file is not COCO's, or no annotation of any file is a caption.
    """

    def __init__(self, files: Iterable[tuple[str, Any]]) -> None:
        self._names: list[str] = []
        self._categories: list[dict[str, Any]] = []
        self._lost: list[tuple[str, str]] = []  # where something is that belongs to no image, and why
        images: dict[str, dict[str, Any]] = {}
        annotations: dict[str, list[tuple[int, int, Any]]] = {}
        for file, (name, content) in enumerate(files):
            _check_file(content, name)
            self._names.append(name)
            categories = filter(_is_object, content.get("categories") or ())
            self._categories.append({str(category.get("id")): category.get("name") for category in categories})
            self._add_images(content["images"], file, images)
            self._add_annotations(content["annotations"], file, annotations)
        self.name = joined_name(self._names)
        if not any(_is_caption(annotation) for some in annotations.values() for _, _, annotation in some):
            raise ValueError(
                f"{self.name} must have annotations with a caption and no bbox, but has none; give the file of the "
                'captions as well, as in ["captions_val2017.json", "instances_val2017.json"]'
            )
        for key in (key for key in annotations if key not in images):
            for file, number, annotation in annotations[key]:
                reason = f"image_id must be the id of an image, but is {key}"
                self._lost.append((f"{self._names[file]}, {_name(annotation, number)}", reason))
        self._ids = list(images)
        records = ({"image": image, "annotations": annotations.get(key, [])} for key, image in images.items())
        self._packed = PackedTable(self.name, records)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Record:
        packed = self._packed[index]
        image = packed["image"]
        if "conflict" in image:
            raise ValueError(image["conflict"])
        check_text(image.get("file_name"), "file_name")
        size = _size(image)
        record: dict[str, Any] = {
            "file_name": image["file_name"],
            "captions": [],
            "regions": [],
            "id": str(image["id"]),
        }
        if size:
            record["width"], record["height"] = size
        for file, number, annotation in packed["annotations"]:
            place = _Place(self._names[file], number, annotation)
            if _is_caption(annotation):
                record["captions"].append(_text(annotation, "caption", place))
            else:
                record["regions"].append(self._region(annotation, file, place, size))
        if not record["captions"]:
            raise ValueError("caption must be in an annotation of the image, but is in none")
        return record

    def location(self, index: int) -> str:
        return f"{self.name}, image {self._ids[index]}"

    def scan(self) -> Scan:
        yield from super().scan()
        for location, reason in self._lost:
            yield location, ValueError(reason)

    def _add_images(self, entries: list[Any], file: int, images: dict[str, dict[str, Any]]) -> None:
        for number, entry in enumerate(entries):
            if not _has_id(entry, "id"):
                reason = f"id must be a number or a string, but is {shown(_value(entry, 'id'))}"
                self._lost.append((f"{self._names[file]}, images[{number}]", reason))
                continue
            image = {name: entry[name] for name in _IMAGE_FIELDS if entry.get(name) is not None}
            known = images.setdefault(str(entry["id"]), image)
            for name in ("file_name", "width", "height"):
                if name in image and known.setdefault(name, image[name]) != image[name]:
                    known["conflict"] = (
                        f"{name} must be the same wherever the image is listed, but is {shown(known[name])} and, in "
                        f"{self._names[file]}, {shown(image[name])}"
                    )

    def _add_annotations(
        self, entries: list[Any], file: int, annotations: dict[str, list[tuple[int, int, Any]]]
    ) -> None:
        crowds = 0
        for number, entry in enumerate(entries):
            if not _has_id(entry, "image_id"):
                reason = f"image_id must be a number or a string, but is {shown(_value(entry, 'image_id'))}"
                self._lost.append((f"{self._names[file]}, {_name(entry, number)}", reason))
            elif entry.get("iscrowd") == 1:
                crowds += 1
            else:
                kept = {name: entry[name] for name in _ANNOTATION_FIELDS if entry.get(name) is not None}
                annotations.setdefault(str(entry["image_id"]), []).append((file, number, kept))
        if crowds:
            logger.info("%s: %d annotations with iscrowd 1 are left out", self._names[file], crowds)

    def _region(self, annotation: Record, file: int, place: "_Place", size: _Size | None) -> dict[str, Any]:
        region: dict[str, Any] = {"box": _box(annotation.get("bbox"), place, size)}
        if "phrase" in annotation or "caption" in annotation:
            region["text"] = _text(annotation, "phrase" if "phrase" in annotation else "caption", place)
        elif "category_id" in annotation:
            region["text"] = self._categories[file].get(str(annotation["category_id"]))
            if not is_text(region["text"]):
                number = shown(annotation["category_id"])
                raise ValueError(f"{place('category_id')} must be the id of a category with a name, but is {number}")
        else:
            raise ValueError(f"{place('phrase')}, a caption or a category_id must be there, but none is")
        if "negatives" in annotation:
            region["negatives"] = annotation["negatives"]
            for index, text in enumerate(items(region["negatives"], place("negatives"))):
                if not is_text(text):
                    check_text(text, place(f"negatives[{index}]"))
        return region


class _Place(NamedTuple):
    """Where an annotation is; called with a field, how that is called in a message."""

    file: str
    number: int
    annotation: Record

    def __call__(self, field: str) -> str:
        return f"{field} of {_name(self.annotation, self.number)} in {self.file}"


def _check_file(content: Any, name: str) -> None:
    if not is_coco(content):
        found = f"has the keys {sorted(content)}" if isinstance(content, dict) else f"is a {type(content).__name__}"
        raise ValueError(f'{name} must be a JSON object with the lists "images" and "annotations", but {found}')
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field, []), list):
            raise ValueError(f"{field} of {name} must be a list, but is {shown(content[field])}")


def _is_object(entry: Any) -> bool:
    return isinstance(entry, dict)


def _has_id(entry: Any, field: str) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get(field), (int, str))


def _value(entry: Any, field: str) -> Any:
    return entry.get(field) if isinstance(entry, dict) else entry


def _name(annotation: Any, number: int) -> str:
    """By its id; one without is known by its place in the file."""
    own_id = annotation.get("id") if isinstance(annotation, dict) else None
    return f"annotations[{number}]" if own_id is None else f"annotation {own_id}"


def _is_caption(annotation: Record) -> bool:
    return "caption" in annotation and "bbox" not in annotation


def _size(image: Record) -> _Size | None:
    sides = []
    for field in ("width", "height"):
        if field in image:
            side = image[field]
            if not isinstance(side, (int, float)) or not 0 < side < inf:
                raise ValueError(f"{field} must be a number of pixels, but is {shown(side)}")
            sides.append(side)
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _text(annotation: Record, field: str, place: _Place) -> str:
    text = annotation[field]
    if not is_text(text):
        check_text(text, place(field))
    return text


def _box(value: Any, place: _Place, size: _Size | None) -> list[float]:
    """[x, y, width, height] as [x1, y1, x2, y2]; checked against the image's size where it is known."""
    try:
        box = list(corner_box(value))
    except (TypeError, ValueError):  # not four, or no numbers
        box = []
    if not is_box(box):
        raise ValueError(
            f"{place('bbox')} must be [x, y, width, height] in pixels, no side negative, but is {shown(value)}"
        )
    if size and not is_inside(box, *size):
        raise ValueError(outside(place("bbox"), value, *size))
    return box
