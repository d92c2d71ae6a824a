"""Format "coco": captions and boxes of one or several COCO files, brought together by the ids of the images."""

import logging
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, NamedTuple

from ...model.boxes_beta_clip import corner_box
from ..fields import check_text, is_box, is_inside, is_text, items, outside, shown
from ..records import PackedTable, Record, Scan, ScannedByIndex, joined_name
from ..row_reader import RecordFormat
from .json_files import json_files, read_json
from .named_files import common_folder, names_in_messages
from .source import OpenedSource, Source, SourceFormat


logger = logging.getLogger(__name__)

# Width and height in pixels.
_Size = tuple[float, float]
_IMAGE_FIELDS = ("id", "file_name", "width", "height")
_ANNOTATION_FIELDS = ("id", "caption", "bbox", "phrase", "category_id", "negatives")


def is_coco(content: Any) -> bool:
    """Tells whether the content of a JSON file has the two lists that every COCO file has."""
    return isinstance(content, dict) and "images" in content and "annotations" in content


def without_polygons(value: dict[str, Any]) -> dict[str, Any]:
    """Drops the outline of an object as a file is read (`object_hook` of `json.loads`). Outlines are most of a file."""
    value.pop("segmentation", None)
    return value


class _Entry(NamedTuple):
    """An annotation and where it is."""

    file: int
    """Number of its file."""
    number: int
    """Its place in the list of the file."""
    annotation: dict[str, Any]


class _Place(NamedTuple):
    """Names the place of an annotation in messages."""

    file_name: str
    number: int
    annotation: Any

    def __str__(self) -> str:
        return f"{self.file_name}, {self._name()}"

    def of(self, field: str) -> str:
        """Names a field of the annotation."""
        return f"{field} of {self._name()} in {self.file_name}"

    def _name(self) -> str:
        annotation_id = None
        if isinstance(self.annotation, dict):
            annotation_id = self.annotation.get("id")
        if annotation_id is None:
            return f"annotations[{self.number}]"
        return f"annotation {annotation_id}"


class CocoTable(ScannedByIndex):
    """One record per image, with the names of a row.

    A record has `file_name`, `captions`, `regions` (boxes in pixels, xyxy), `id`, and `width` and `height` where they
    are known. An annotation with a `caption` and no `bbox` is a caption of its image. One with a `bbox`
    ([x, y, width, height] in pixels) is a region; its text is its `phrase`, else its `caption`, else the name of its
    category; `negatives`, a list of texts, may come along. Annotations with `iscrowd` 1 are left out, and their number
    is logged.

    What cannot be used is an error that names the image or the annotation, its file and the field. A bad annotation is
    an error of its image. An annotation or image that belongs to no row comes by itself at the end of `scan()`.

    Args:
        files: Name and content of each file. Images are known by their id, in whichever file. Categories are those of
            the annotation's own file.

    Raises:
        ValueError: if a file is not COCO's, or no annotation of any file is a caption.
    """

    def __init__(self, files: Iterable[tuple[str, Any]]) -> None:
        self._file_names: list[str] = []
        self._categories: list[dict[str, Any]] = []
        # Where something is that belongs to no image, and why.
        self._lost: list[tuple[str, str]] = []
        images: dict[str, dict[str, Any]] = {}
        entries: dict[str, list[_Entry]] = {}
        for file, (name, content) in enumerate(files):
            _check_file(content, name)
            self._file_names.append(name)
            self._categories.append(_category_names(content))
            self._add_images(content["images"], file, images)
            self._add_annotations(content["annotations"], file, entries)
        self.name = joined_name(self._file_names)
        if not any(map(_has_caption, entries.values())):
            raise ValueError(
                f"{self.name} must have annotations with a caption and no bbox, but has none; give the file of the "
                'captions as well, as in ["captions_val2017.json", "instances_val2017.json"]'
            )
        self._add_lost_annotations(images, entries)
        self._image_ids = list(images)
        records = ({"image": image, "entries": entries.get(key, [])} for key, image in images.items())
        self._packed = PackedTable(self.name, records)

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Record:
        packed = self._packed[index]
        image = packed["image"]
        if "conflict" in image:
            raise ValueError(image["conflict"])
        check_text(image.get("file_name"), "file_name")
        size = _size(image)
        captions, regions = [], []
        for packed_entry in packed["entries"]:
            entry = _Entry(*packed_entry)
            place = _Place(self._file_names[entry.file], entry.number, entry.annotation)
            if _is_caption(entry.annotation):
                captions.append(_text(entry.annotation, "caption", place))
            else:
                regions.append(self._region(entry, place, size))
        if not captions:
            raise ValueError("caption must be in an annotation of the image, but is in none")
        record = {
            "file_name": image["file_name"],
            "captions": captions,
            "regions": regions,
            "id": str(image["id"]),
        }
        if size is not None:
            record["width"], record["height"] = size
        return record

    def location(self, index: int) -> str:
        """Names the image by its id: "captions.json, image 9"."""
        return f"{self.name}, image {self._image_ids[index]}"

    def scan(self) -> Scan:
        """Reads all records, and then what belongs to none of them."""
        yield from super().scan()
        for location, reason in self._lost:
            yield location, ValueError(reason)

    def _add_images(self, image_list: list[Any], file: int, images: dict[str, dict[str, Any]]) -> None:
        for number, item in enumerate(image_list):
            if not _has_id(item, "id"):
                reason = f"id must be a number or a string, but is {shown(_value(item, 'id'))}"
                self._lost.append((f"{self._file_names[file]}, images[{number}]", reason))
                continue
            image = {name: item[name] for name in _IMAGE_FIELDS if item.get(name) is not None}
            known = images.setdefault(str(item["id"]), image)
            for name in ("file_name", "width", "height"):
                if name not in image:
                    continue
                known_value = known.setdefault(name, image[name])
                if known_value != image[name]:
                    known["conflict"] = (
                        f"{name} must be the same wherever the image is listed, but is {shown(known_value)} and, in "
                        f"{self._file_names[file]}, {shown(image[name])}"
                    )

    def _add_annotations(self, annotations: list[Any], file: int, entries: dict[str, list[_Entry]]) -> None:
        crowds = 0
        for number, item in enumerate(annotations):
            if not _has_id(item, "image_id"):
                reason = f"image_id must be a number or a string, but is {shown(_value(item, 'image_id'))}"
                self._lost.append((str(_Place(self._file_names[file], number, item)), reason))
            elif item.get("iscrowd") == 1:
                crowds += 1
            else:
                annotation = {name: item[name] for name in _ANNOTATION_FIELDS if item.get(name) is not None}
                entries.setdefault(str(item["image_id"]), []).append(_Entry(file, number, annotation))
        if crowds:
            logger.info("%s: %d annotations with iscrowd 1 are left out", self._file_names[file], crowds)

    def _add_lost_annotations(self, images: Mapping[str, Any], entries: Mapping[str, list[_Entry]]) -> None:
        """Notes the annotations whose image is in no file."""
        for image_id in entries:
            if image_id in images:
                continue
            reason = f"image_id must be the id of an image, but is {image_id}"
            for file, number, annotation in entries[image_id]:
                self._lost.append((str(_Place(self._file_names[file], number, annotation)), reason))

    def _region(self, entry: _Entry, place: _Place, size: _Size | None) -> dict[str, Any]:
        annotation = entry.annotation
        region: dict[str, Any] = {"box": _box(annotation.get("bbox"), place, size)}
        if "phrase" in annotation:
            region["text"] = _text(annotation, "phrase", place)
        elif "caption" in annotation:
            region["text"] = _text(annotation, "caption", place)
        elif "category_id" in annotation:
            region["text"] = self._category_name(annotation["category_id"], entry.file, place)
        else:
            raise ValueError(f"{place.of('phrase')}, a caption or a category_id must be there, but none is")
        if "negatives" in annotation:
            region["negatives"] = _negatives(annotation, place)
        return region

    def _category_name(self, category_id: Any, file: int, place: _Place) -> str:
        name: Any = self._categories[file].get(str(category_id))
        if not is_text(name):
            raise ValueError(
                f"{place.of('category_id')} must be the id of a category with a name, but is {shown(category_id)}"
            )
        return name


def _check_file(content: Any, name: str) -> None:
    if not is_coco(content):
        kind = f"is a {type(content).__name__}"
        if isinstance(content, dict):
            kind = f"has the keys {sorted(content)}"
        raise ValueError(f'{name} must be a JSON object with the lists "images" and "annotations", but {kind}')
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field, []), list):
            raise ValueError(f"{field} of {name} must be a list, but is {shown(content[field])}")


def _category_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the names of a file's categories by their ids."""
    categories = content.get("categories") or ()
    return {str(item.get("id")): item.get("name") for item in categories if isinstance(item, dict)}


def _has_id(item: Any, field: str) -> bool:
    return isinstance(item, dict) and isinstance(item.get(field), (int, str))


def _value(item: Any, field: str) -> Any:
    """Returns a field of an object; what is not an object is returned itself."""
    if isinstance(item, dict):
        return item.get(field)
    return item


def _is_caption(annotation: Record) -> bool:
    return "caption" in annotation and "bbox" not in annotation


def _has_caption(entries: list[_Entry]) -> bool:
    return any(_is_caption(entry.annotation) for entry in entries)


def _size(image: Record) -> _Size | None:
    """Returns width and height of an image, or `None` if one of them is not known."""
    for field in ("width", "height"):
        side = image.get(field)
        if side is not None and (not isinstance(side, (int, float)) or not 0 < side < inf):
            raise ValueError(f"{field} must be a number of pixels, but is {shown(side)}")
    if "width" in image and "height" in image:
        return image["width"], image["height"]
    return None


def _text(annotation: Record, field: str, place: _Place) -> str:
    text = annotation[field]
    if not is_text(text):
        check_text(text, place.of(field))
    return text


def _negatives(annotation: Record, place: _Place) -> Any:
    negatives = annotation["negatives"]
    for index, text in enumerate(items(negatives, place.of("negatives"))):
        if not is_text(text):
            check_text(text, place.of(f"negatives[{index}]"))
    return negatives


def _box(value: Any, place: _Place, size: _Size | None) -> list[float]:
    """Turns [x, y, width, height] into [x1, y1, x2, y2], and checks it against the image's size if that is known."""
    try:
        box = list(corner_box(value))
    except (TypeError, ValueError):  # not four, or not numbers
        box = []
    if not is_box(box):
        raise ValueError(
            f"{place.of('bbox')} must be [x, y, width, height] in pixels, no side negative, but is {shown(value)}"
        )
    if size is not None and not is_inside(box, *size):
        raise ValueError(outside(place.of("bbox"), value, *size))
    return box


def _open(source: Source) -> OpenedSource:
    files = json_files(source.place)
    names = names_in_messages(files)
    contents = ((name, read_json(path, name, without_polygons)) for name, path in zip(names, files, strict=True))
    return OpenedSource(CocoTable(contents), common_folder(files), COCO_RECORDS)


COCO_RECORDS = RecordFormat(image_field="file_name")
# Never told by the name of a file: `json_rows.py` looks into it.
COCO = SourceFormat("coco", _open)
