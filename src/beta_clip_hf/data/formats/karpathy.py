"""Karpathy's splits of Flickr8k, Flickr30k and COCO (arXiv 1412.2306): all captions of the images of one split."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..fields import shown
from ..records import PackedTable, Record
from ..row_reader import RecordFormat
from .source import OpenedSource
from .splits import table_of_split


# Names of the image's id: COCO's own, or its number in the file.
_IDS = ("cocoid", "imgid")


def is_karpathy(content: Any) -> bool:
    """Tells whether the content of a JSON file is a list of images with their sentences."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return False
    return any(isinstance(image, dict) and "sentences" in image for image in content["images"][:10])


def open_karpathy(path: Path, content: dict[str, Any], split: str) -> OpenedSource:
    """Opens the images of a split: "train" (which takes in "restval"), "val" or "test".

    Raises:
        ValueError: if there is no such split.
    """
    table = PackedTable(path.name, _records(content["images"]))
    return OpenedSource(table_of_split(table, split), path.parent, KARPATHY_RECORDS)


def _records(images: list[Any]) -> Iterator[Record | ValueError]:
    for image in images:
        try:
            yield _record(image)
        except ValueError as error:
            yield error


def _record(image: Any) -> Record:
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        raise ValueError(f"an image must be an object with a filename, but is {shown(image)}")
    sentences = image.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise ValueError(f"sentences must be a list of objects with the text in raw, but is {shown(sentences)}")
    captions = []
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
            raise ValueError(f"sentences[{number}] must be an object with the text in raw, but is {shown(sentence)}")
        captions.append(sentence["raw"].strip())
    record = {
        # COCO's images lie in a folder of their own, as `val2014`.
        "file_name": str(PurePosixPath(image.get("filepath") or "", image["filename"])),
        "captions": captions,
        "split": image.get("split"),
    }
    image_id = next((image[name] for name in _IDS if name in image), None)
    if image_id is not None:
        record["id"] = str(image_id)
    return record


KARPATHY_RECORDS = RecordFormat(image_field="filename")
